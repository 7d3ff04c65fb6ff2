import numpy as np
import pytest
import torch

from medseg.uncertainty.conformal import (
    CaseNumbers,
    StructureNumbers,
    case_numbers,
    is_covered,
    lower_limit,
    upper_limit,
)
from medseg.uncertainty.structures import StructureCounts, reaches


def blurred_ball(random, size=14):
    """A ball whose radius the model knows up to an error of its own, as probabilities and as truth."""
    z, y, x = np.ogrid[:size, :size, :size]
    distance = np.sqrt(sum((axis - size / 2) ** 2 for axis in (z, y, x)))
    radius = random.uniform(2.5, 5)
    return torch.from_numpy(1 / (1 + np.exp(2 * (distance - radius - random.normal(0, 0.4))))), distance < radius


def numbers_of(p, true):
    counts = StructureCounts.empty(1)
    counts.add(p.reshape(1, -1), (p > 0.5).reshape(1, -1), torch.from_numpy(true).reshape(1, -1))
    dice = counts.estimate(0, "ball", 1.0).expected_dice
    return counts, case_numbers(counts, 0, int(true.sum()), dice, is_annotated=True)


def test_limits_are_the_finite_sample_order_statistics():
    numbers = [float(k) for k in range(1, 20)]
    assert lower_limit(numbers, 0.9) == 2
    assert upper_limit(numbers, 0.9) == 18
    assert lower_limit(numbers, 0.95) == 1
    assert lower_limit(numbers, 0.96) is None
    assert upper_limit([], 0.9) is None


def test_a_number_of_a_case_says_whether_its_contour_holds():
    random = np.random.default_rng(0)
    for _ in range(5):
        p, true = blurred_ball(random)
        _, found = numbers_of(p, true)
        assert true[reaches(p, found.outer).numpy()].sum() >= 0.99 * true.sum()
        assert true[reaches(p, found.outer + 0.02).numpy()].sum() < 0.99 * true.sum()
        inner = reaches(p, found.inner).numpy()
        assert true[inner].sum() >= 0.99 * inner.sum()


def test_coverage_on_new_cases_is_what_was_asked_for():
    random = np.random.default_rng(1)
    numbers = [numbers_of(*blurred_ball(random))[1] for _ in range(500)]
    held = {what: [] for what in ("outer", "inner", "volume", "dice")}
    for start in range(0, 500, 50):  # the coverage of a single limit is itself random; its mean is what is promised
        known = StructureNumbers.of("ball", numbers[start : start + 49])
        for new in numbers[:start] + numbers[start + 50 :]:
            for what, is_held in is_covered(new, known.limits(0.9)).items():
                held[what].append(is_held)
    for found in held.values():
        assert 0.87 < np.mean(found) < 0.95


def test_an_absent_structure_lies_within_everything_and_nothing_lies_within_it():
    p, _ = blurred_ball(np.random.default_rng(2))
    counts, found = numbers_of(p, np.zeros(p.shape, bool))
    assert found.outer == 16
    assert not reaches(p, found.inner).any()
    assert found.volume == pytest.approx(-counts.expected_voxels(0) / counts.doubtful_voxels(0))


def test_what_the_crop_has_cut_off_is_only_within_everything():
    p, true = blurred_ball(np.random.default_rng(3))
    counts, _ = numbers_of(p, true)
    found = case_numbers(counts, 0, 2 * int(true.sum()), 0.9, is_annotated=True)
    assert found.outer == -16
    assert reaches(p, found.outer).all()


def test_too_few_cases_promise_nothing():
    few = StructureNumbers.of("ball", [CaseNumbers(outer=0, inner=1, volume=0.1, dice=0.0)] * 8)
    limits = few.limits(0.9)
    assert limits.outer is limits.inner is limits.volume_low is limits.dice_low is None
    assert is_covered(CaseNumbers(outer=0, inner=1, volume=0.1, dice=0.0), limits) == {}
