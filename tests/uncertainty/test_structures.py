import numpy as np
import pytest
import torch

from medseg.uncertainty.structures import EDGES, StructureCounts, reaches, review_score, target_masks

from tiny import nested_regions, table_of


def counted(probabilities, predicted, true=None):
    counts = StructureCounts.empty(1)
    counts.add(
        torch.from_numpy(probabilities)[None],
        torch.from_numpy(predicted)[None],
        None if true is None else torch.from_numpy(true)[None],
    )
    return counts


def ramp(voxels=100_000):
    """Probabilities from 0 to 1, and their prediction."""
    p = np.linspace(0, 1, voxels)
    return p, p > 0.5


def test_volume_quantiles_are_those_of_the_sets_of_more_probable_voxels():
    p, predicted = ramp()
    found = counted(p, predicted).estimate(0, "liver", voxel_ml=0.001)
    assert found.prediction_ml == pytest.approx(50, rel=1e-3)
    assert found.expected_ml == pytest.approx(p.sum() / 1000, rel=1e-3)
    assert found.low_ml == pytest.approx(5, rel=2e-2)
    assert found.high_ml == pytest.approx(95, rel=2e-3)
    assert found.presence > 0.999


def test_the_expected_dice_is_the_mean_over_truths_drawn_as_the_model_believes():
    p, predicted = ramp()
    random = np.random.default_rng(0).random(2000)
    dice = [2 * (predicted & (p > u)).sum() / (predicted.sum() + (p > u).sum()) for u in random]
    found = counted(p, predicted).estimate(0, "liver", 1.0).expected_dice
    assert found == pytest.approx(np.mean(dice), abs=0.01)


def test_a_temperature_is_that_of_every_voxel():
    p, predicted = ramp()
    calibrated = 1 / (1 + np.exp(-np.log(p[1:-1] / (1 - p[1:-1])) / 2))
    expected = counted(calibrated, predicted[1:-1]).estimate(0, "liver", 1.0)
    found = counted(p[1:-1], predicted[1:-1]).estimate(0, "liver", 1.0, temperature=2.0)
    for name in ("expected_ml", "low_ml", "high_ml", "expected_dice"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=2e-3)


def test_what_is_nowhere_has_no_dice_and_what_is_missed_has_none_left():
    nothing = np.full(1000, 1e-4)
    found = counted(nothing, nothing > 0.5).estimate(0, "tumour", 1.0)
    assert found.expected_dice is None
    assert found.presence < 0.001
    assert review_score([found]) == 1
    missed = counted(np.full(1000, 0.8), np.zeros(1000, bool)).estimate(0, "tumour", 1.0)
    assert missed.expected_dice == 0


def test_the_worklist_follows_the_worst_structure():
    p, predicted = ramp()
    sharp = counted(np.clip(1e4 * (p - 0.5), 0, 1), predicted).estimate(0, "a", 1.0)
    soft = counted(p, predicted).estimate(0, "b", 1.0)
    assert review_score([sharp]) < 0.01
    assert review_score([sharp, soft]) == pytest.approx(1 - soft.expected_dice)


def test_a_limit_is_reached_as_the_counts_say():
    p, predicted = ramp()
    p = p.astype(np.float32)
    counts = counted(p, predicted)
    for place in (0, 700, 1600, 2222, len(EDGES) - 1):
        reached = reaches(torch.from_numpy(p), float(EDGES[place])).numpy()
        assert reached.sum() == counts.everywhere[0, place:].sum()
    assert reaches(torch.from_numpy(p), float(EDGES[0])).all()
    assert not reaches(torch.from_numpy(p), float(EDGES[-1])).any()


def test_targets_are_regions_where_there_are_any():
    table = table_of(2, regions=nested_regions(2))
    found = target_masks(torch.tensor([0, 1, 2]), table)
    assert found.tolist() == [[False, True, True], [False, False, True]]
