"""A plateau is told from noise: courses with a known shape, each with a hundred seeds of noise."""

import numpy as np
import pytest

from medseg.training.plateau import has_plateaued, largest_rise

CHECKS, WINDOW = 30, 10
DONE = np.arange(1, CHECKS + 1) / CHECKS
SHAPES = {
    "saturated early": 0.86 * (1 - np.exp(-DONE / 0.04)),
    "ACDC": np.interp(DONE, [0, 0.05, 0.2, 0.5, 1], [0, 0.8, 0.9103, 0.9117, 0.9125]),
    "steady": 0.6 + 0.06 * DONE,
    "KiTS21": np.interp(DONE, [0, 0.05, 0.2, 0.5, 1], [0, 0.5, 0.7052, 0.7507, 0.7732]),
    "WORD": np.interp(DONE, [0, 0.05, 0.2, 0.5, 1], [0, 0.7, 0.8068, 0.8287, 0.8448]),
    "falling": 0.8 - 0.05 * DONE,
}
"""The named ones follow nnU-Net's held-out Dice after 200, 500 and 1000 of 1000 epochs (nnActive, full data)."""


def declared(scores: np.ndarray) -> int | None:
    """The check at which a plateau is seen first, counted from 1."""
    return next((n for n in range(1, CHECKS + 1) if has_plateaued(scores[:n].tolist(), WINDOW)), None)


def all_declared(shape: str, noise: float) -> list[int]:
    """With noise that falls with the learning rate; CHECKS + 1 where none was seen."""
    found = []
    for seed in range(100):
        errors = np.random.default_rng(seed).normal(0, noise, CHECKS) * np.maximum(1 - DONE, 0.1)
        found.append(declared(SHAPES[shape] + errors) or CHECKS + 1)
    return found


@pytest.mark.parametrize("shape", ["saturated early", "ACDC", "falling"])
@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_what_has_stopped_rising_is_seen_before_two_thirds_of_the_time(shape: str, noise: float) -> None:
    found = all_declared(shape, noise)
    assert np.median(found) <= 20
    assert np.mean(np.array(found) <= 25) >= 0.85


@pytest.mark.parametrize("shape", ["steady", "KiTS21", "WORD"])
@pytest.mark.parametrize("noise", [0.0, 0.005, 0.01])
def test_what_still_rises_is_hardly_ever_taken_for_a_plateau(shape: str, noise: float) -> None:
    assert np.mean(np.array(all_declared(shape, noise)) <= CHECKS) <= 0.02


def test_more_noise_makes_the_rule_wait_and_not_hurry() -> None:
    waits = [np.median(all_declared("saturated early", noise)) for noise in (0.002, 0.01, 0.03)]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_a_jump_starts_the_wait_again() -> None:
    flat = np.full(CHECKS, 0.8)
    jump = np.where(DONE > 0.36, 0.86, 0.8)
    assert declared(flat) == WINDOW + 1
    seen = declared(jump)
    assert seen is not None
    assert seen >= np.argmax(jump > 0.8) + WINDOW


def test_too_few_scores_are_no_plateau() -> None:
    assert not has_plateaued([0.8] * WINDOW, WINDOW)
    assert has_plateaued([0.8] * (WINDOW + 1), WINDOW)
    assert largest_rise([0.0, 0.1, 0.2, 0.3]) == pytest.approx(0.4)
