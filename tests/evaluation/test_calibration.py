import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medseg.errors import MedsegError
from medseg.evaluation.calibration import CalibrationCounts, class_outcomes, region_outcomes


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=0))
    return exponents / exponents.sum(axis=0)


def drawn(seed=0, voxels=20_000, sharpness=1.0):
    """Classes drawn from softmax(logits); what is given as probabilities may be sharper than that."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(3, voxels))
    truth = (softmax(logits).cumsum(axis=0) < random.random(voxels)).sum(axis=0)
    return softmax(sharpness * logits), truth


def scores_of(probabilities, truth, weight=None):
    counts = CalibrationCounts()
    counts.add(class_outcomes(probabilities, truth), weight)
    return counts.scores()


def test_probabilities_that_the_truth_was_drawn_from_are_calibrated_and_sharper_ones_are_not():
    good, sharp = scores_of(*drawn()), scores_of(*drawn(sharpness=2.0))
    assert good.ece < 0.015
    assert good.adaptive_ece < 0.015
    assert sharp.ece > 0.08
    assert sharp.adaptive_ece > 0.08
    assert good.nll < sharp.nll
    assert good.brier < sharp.brier
    assert good.accuracy == sharp.accuracy


def test_every_number_is_that_of_its_definition():
    probabilities, truth = drawn(voxels=3000, sharpness=1.5)
    found = scores_of(probabilities, truth)
    confidence, right = probabilities.max(axis=0), probabilities.argmax(axis=0) == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert found.ece == pytest.approx(ece, abs=1e-12)
    order = np.array_split(np.argsort(confidence), 15)
    adaptive = sum(abs(right[part].mean() - confidence[part].mean()) * len(part) for part in order) / len(truth)
    assert found.adaptive_ece == pytest.approx(adaptive, abs=2e-3)
    assert found.brier == pytest.approx(((probabilities - np.eye(3)[:, truth]) ** 2).sum(axis=0).mean())
    assert found.nll == pytest.approx(-np.log(probabilities[truth, np.arange(3000)]).mean())
    entropy = -(probabilities * np.log(probabilities)).sum(axis=0)
    assert found.auroc == pytest.approx(roc_auc_score(~right, entropy), abs=1e-3)
    wrong = (~right)[np.argsort(entropy)]
    assert found.aurc == pytest.approx((wrong.cumsum() / np.arange(1, 3001)).mean(), abs=1e-3)
    assert sum(one.share for one in found.reliability) == pytest.approx(1)


def test_a_weight_of_two_is_a_voxel_counted_twice_and_counts_of_cases_add_up():
    probabilities, truth = drawn(voxels=500)
    weighted = scores_of(probabilities, truth, np.full(500, 2.0))
    twice = CalibrationCounts()
    twice.add(class_outcomes(probabilities, truth))
    summed = (twice + twice).scores()
    assert summed == weighted
    assert summed.ece == pytest.approx(scores_of(probabilities, truth).ece)


def test_risk_falls_with_coverage_where_uncertainty_knows_the_errors():
    counts = CalibrationCounts()
    counts.add(class_outcomes(*drawn()))
    coverage, risk = counts.risk_coverage()
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(1 - counts.scores().accuracy)
    assert risk[19] < 0.2 * risk[-1]
    assert counts.scores().aurc == pytest.approx(np.trapezoid(risk, coverage), abs=0.005)


def test_a_region_is_a_question_of_two_answers_each():
    probabilities = np.array([[0.9, 0.2], [0.6, 0.4]])
    truth = np.array([[True, False], [False, False]])
    counts = CalibrationCounts()
    counts.add(region_outcomes(probabilities, truth))
    found = counts.scores()
    assert found.voxels == 4
    assert found.accuracy == 0.75
    assert found.brier == pytest.approx(2 * np.mean([0.1**2, 0.2**2, 0.6**2, 0.4**2]))


def test_without_an_error_there_is_no_auroc_and_without_a_voxel_there_is_nothing():
    found = scores_of(np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([0, 1]))
    assert found.auroc is None
    assert found.aurc == 0
    with pytest.raises(MedsegError, match="No voxel was counted"):
        CalibrationCounts().scores()
