import numpy as np
import pytest
from scipy.stats import wilcoxon

from medseg.cases.labels import Label, LabelTable
from medseg.evaluation.comparison import compare, mean_dice, target_dice
from medseg.inference.selection import candidates_of, choose

TABLE = LabelTable(
    labels=(Label(name="background", value=0), Label(name="one", value=1), Label(name="two", value=2)), ignore=9
)


def test_dice_leaves_out_what_nobody_annotated_and_what_is_in_neither():
    truth = np.array([[[1, 1, 0, 3]]], np.uint8)
    prediction = np.array([[[1, 0, 0, 1]]], np.uint8)
    one, two = target_dice(prediction, truth, TABLE)
    assert one == pytest.approx(2 / 3)
    assert np.isnan(two)


def test_the_mean_is_that_of_the_targets_means():
    assert mean_dice(np.array([[1.0, np.nan], [0.5, 0.2]])) == pytest.approx((0.75 + 0.2) / 2)


def test_every_candidate_is_compared_with_the_reference_case_by_case():
    random = np.random.default_rng(0)
    base = random.uniform(0.6, 0.9, (30, 2))
    tables = {"a": base, "b": base + 0.02 + 0.005 * random.standard_normal((30, 2)), "c": base[::-1]}
    compared = {one.name: one for one in compare(tables, "a")}
    assert next(iter(compared)) == "b"
    assert compared["a"].p_value is None
    b = compared["b"]
    assert b.difference == pytest.approx(mean_dice(tables["b"]) - mean_dice(base))
    assert b.difference_low is not None
    assert 0 < b.difference_low < b.difference < b.difference_high
    assert b.p_value == pytest.approx(wilcoxon(tables["b"].mean(1) - base.mean(1)).pvalue)
    c = compared["c"]
    assert c.difference_low is not None
    assert c.difference_low < 0 < c.difference_high


def test_equal_candidates_have_no_p_value_and_no_difference():
    table = np.full((4, 1), 0.8)
    b = next(one for one in compare({"a": table, "b": table.copy()}, "a") if one.name == "b")
    assert (b.difference, b.p_value) == (0, None)


def test_a_pair_is_chosen_only_when_it_is_better_by_more_than_chance():
    random = np.random.default_rng(1)
    base = random.uniform(0.5, 0.9, (40, 1))
    tables = {("a",): base, ("b",): base - 0.1}
    chosen, _ = choose(tables | {("a", "b"): base + 0.01 * random.standard_normal((40, 1)) + 1e-4})
    assert chosen == ("a",)
    chosen, compared = choose(tables | {("a", "b"): base + 0.03})
    assert chosen == ("a", "b")
    assert compared[0].name == "a + b"


@pytest.mark.parametrize("cases", [1, 3, 5])
def test_few_cases_never_show_more_than_chance(cases):
    base = np.random.default_rng(2).uniform(0.5, 0.8, (cases, 2))
    chosen, compared = choose({("a",): base, ("b",): base - 0.1, ("a", "b"): base + 0.1})
    assert chosen == ("a",)
    pair = next(one for one in compared if one.name == "a + b")
    assert pair.difference == pytest.approx(0.1)
    assert (pair.difference_low is None) == (cases == 1)


def test_candidates_are_all_configurations_and_all_pairs():
    assert candidates_of(["x", "y", "z"]) == (("x",), ("y",), ("z",), ("x", "y"), ("x", "z"), ("y", "z"))
