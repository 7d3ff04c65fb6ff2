"""Changes become one change: each rule against numbers worked out otherwise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import SettingsError, SiteError
from medseg.federation.aggregation import (
    Change,
    adam_step,
    control_step,
    coordinate_median,
    merge_late,
    momentum_step,
    norm_of,
    plain_step,
    shortened,
    site_control,
    trimmed_mean,
    weighted_mean,
)
from medseg.federation.compression import compress, restore, size_of

RANDOM = np.random.default_rng(0)


def _changes(count: int, **more: object) -> list[Change]:
    return [
        Change({"a": RANDOM.normal(size=(3, 2)).astype(np.float32), "b": np.float32(RANDOM.normal())[()].reshape(())})
        for _ in range(count)
    ]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_the_mean_is_numpys_weighted_average(weights: list[int]) -> None:
    changes = [Change(change.delta, w) for change, w in zip(_changes(len(weights)), weights, strict=True)]
    expected = np.average([change.delta["a"] for change in changes], axis=0, weights=weights)
    np.testing.assert_allclose(weighted_mean(changes)["a"], expected, rtol=1e-6)


def test_equal_changes_have_themselves_as_mean_median_and_trimmed_mean() -> None:
    one = _changes(1)[0]
    for rule in (weighted_mean, coordinate_median, trimmed_mean, merge_late):
        for name, values in rule([one] * 5).items():
            np.testing.assert_allclose(values, one.delta[name], rtol=1e-6)


def test_one_bad_site_moves_the_mean_and_neither_the_median_nor_the_trimmed_mean() -> None:
    good = [Change({"a": np.full(4, 1 + 0.01 * i, np.float32)}) for i in range(6)]
    bad = Change({"a": np.full(4, -1e6, np.float32)})
    assert weighted_mean([*good, bad])["a"].max() < -1e4
    for rule in (coordinate_median, trimmed_mean):
        assert np.abs(rule([*good, bad])["a"] - 1).max() < 0.1


def test_robust_rules_refuse_fewer_than_five_sites() -> None:
    for rule in (coordinate_median, trimmed_mean):
        with pytest.raises(SettingsError, match="at least 5 sites"):
            rule(_changes(4))


def test_a_late_change_counts_less_and_the_others_not_more() -> None:
    fresh, late = Change({"a": np.ones(2, np.float32)}), Change({"a": np.full(2, 4, np.float32)}, age=3)
    np.testing.assert_allclose(merge_late([fresh, late], exponent=0.5)["a"], 0.5 * 1 + 0.5 * 4 / 2)


def test_the_weights_keep_their_types_and_what_has_no_change_stays() -> None:
    weights = {"a": np.zeros((3, 2), np.float32), "half": np.ones(2, np.float16), "own": np.ones(1, np.float64)}
    moved, _ = plain_step(weights, {"a": np.full((3, 2), 0.5), "half": np.full(2, 1e-4)}, {})
    assert {name: array.dtype for name, array in moved.items()} == {n: a.dtype for n, a in weights.items()}
    np.testing.assert_array_equal(moved["own"], weights["own"])
    np.testing.assert_array_equal(moved["a"], 0.5)


def test_momentum_is_that_of_torchs_sgd() -> None:
    weights, memory = {"a": np.array([1.0, -2.0], np.float32)}, {}
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    sgd = torch.optim.SGD([parameter], lr=0.3, momentum=0.8)
    for _ in range(4):
        delta = RANDOM.normal(size=2)
        weights, memory = momentum_step(weights, {"a": delta}, memory, rate=0.3, momentum=0.8)
        parameter.grad = -torch.tensor(delta, dtype=torch.float32)
        sgd.step()
    np.testing.assert_allclose(weights["a"], parameter.detach().numpy(), rtol=1e-5)


def test_adam_moves_by_its_closed_form() -> None:
    delta, floor = np.array([0.5, -0.25]), 1e-3
    moved, memory = adam_step({"a": np.zeros(2, np.float64)}, {"a": delta}, {}, rate=0.1, floor=floor)
    square = 0.99 * floor**2 + 0.01 * delta**2
    np.testing.assert_allclose(moved["a"], 0.1 * 0.1 * delta / (np.sqrt(square) + floor))
    assert set(memory) == {"mean.a", "square.a"}


def test_scaffolds_controls_of_all_sites_have_the_servers_as_their_mean() -> None:
    server = {"a": np.zeros(3, np.float32)}
    own = [{"a": np.zeros(3, np.float32)} for _ in range(3)]
    for _ in range(3):
        found = [site_control(control, server, {"a": RANDOM.normal(size=3).astype(np.float32)}, 0.7) for control in own]
        own = [new for new, _ in found]
        server = control_step(server, [change for _, change in found], 3)
    np.testing.assert_allclose(server["a"], np.mean([control["a"] for control in own], axis=0), atol=1e-5)


def test_scaffolds_control_is_the_mean_gradient_of_plain_descent() -> None:
    gradient, rates = np.array([2.0, -1.0], np.float32), [0.1, 0.2]
    zero = {"a": np.zeros(2, np.float32)}
    new, _ = site_control(zero, zero, {"a": -sum(rates) * gradient}, sum(rates))
    np.testing.assert_allclose(new["a"], gradient, rtol=1e-6)


def test_a_change_is_shortened_to_its_bound_and_zero_stays_zero() -> None:
    delta = _changes(1)[0].delta
    assert norm_of(shortened(delta, 0.01)) == pytest.approx(0.01, rel=1e-5)
    assert norm_of(shortened(delta, 1e9)) == norm_of(delta)
    assert norm_of(shortened({"a": np.zeros(3), "b": np.zeros(())}, 1.0)) == 0


@pytest.mark.parametrize(("kind", "share"), [("none", 1.0), ("fp16", 0.5), ("int8", 0.26)])
def test_a_compressed_change_is_as_small_as_it_should_be_and_comes_back_close(kind, share: float) -> None:
    delta = {"a": RANDOM.normal(size=(40, 50)).astype(np.float32), "b": np.zeros((), np.float32)}
    sent, residual = compress(delta, kind, {})
    assert size_of(sent) <= share * size_of(delta) + 8
    back = restore(sent, kind, delta)
    assert {name: (a.shape, a.dtype) for name, a in back.items()} == {n: (a.shape, a.dtype) for n, a in delta.items()}
    step = {"none": 0.0, "fp16": 2e-3, "int8": np.abs(delta["a"]).max() / 127 / 2 + 1e-6}[kind]
    assert np.abs(back["a"] - delta["a"]).max() <= step
    for name in residual:
        np.testing.assert_allclose(back[name] + residual[name], delta[name], atol=1e-6)


def test_what_rounding_takes_in_one_round_is_sent_in_the_next() -> None:
    small = {"a": np.array([1.0, 0.003], np.float32)}  # 0.003 is less than half a step of 1/127
    total, residual = np.zeros(2), {}
    for _ in range(50):
        sent, residual = compress(small, "int8", residual)
        total += restore(sent, "int8", small)["a"]
    np.testing.assert_allclose(total, 50 * small["a"], atol=0.01)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda sent: {}, "bad-update-names"),
        (lambda sent: {**sent, "more": np.zeros(1)}, "bad-update-names"),
        (lambda sent: {"a": sent["a"][:1]}, "bad-update-shape"),
        (lambda sent: {"a": sent["a"].astype(np.float64)}, "bad-update-shape"),
    ],
)
def test_a_change_of_another_form_is_refused_by_a_code(change, code: str) -> None:
    delta = {"a": np.ones((2, 2), np.float32)}
    with pytest.raises(SiteError, match=code):
        restore(change(delta), "none", delta)
