import numpy as np
import pytest
import torch

from medseg.errors import MedsegError
from medseg.uncertainty.sample import VoxelSampler, join
from medseg.uncertainty.temperature import fit_temperature, tempered


def softmax(logits):
    return torch.softmax(torch.from_numpy(logits), dim=0).numpy()


def overconfident(factor, voxels=20_000, seed=0):
    """Truth drawn from softmax(logits), and what a network says whose logits are ``factor`` times too large."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(3, voxels))
    truth = (softmax(logits).cumsum(axis=0) < random.random(voxels)).sum(axis=0)
    return softmax(factor * logits), truth


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_factor_by_which_logits_are_too_large_is_found(factor):
    probabilities, truth = overconfident(factor)
    found = fit_temperature(probabilities, truth, np.ones(truth.size), "softmax")
    assert found == pytest.approx(factor, rel=0.04)


def test_the_factor_of_a_single_structure_is_found_too():
    random = np.random.default_rng(1)
    logits = 2 * random.normal(size=(1, 20_000))
    truth = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    found = fit_temperature(1 / (1 + np.exp(-3 * logits)), truth, np.ones(truth.size), "sigmoid")
    assert found == pytest.approx(3.0, rel=0.05)


def test_a_weight_counts_as_that_many_voxels():
    probabilities, truth = overconfident(2.0, 2000)
    weight = np.random.default_rng(2).integers(1, 4, truth.size).astype(float)
    repeated = np.repeat(np.arange(truth.size), weight.astype(int))
    expected = fit_temperature(probabilities[:, repeated], truth[repeated], np.ones(repeated.size), "softmax")
    assert fit_temperature(probabilities, truth, weight, "softmax") == pytest.approx(expected, rel=1e-3)


def test_a_temperature_is_that_of_the_logits_and_never_changes_the_largest_class():
    logits = np.random.default_rng(3).normal(size=(4, 5, 6))
    found = tempered(torch.from_numpy(softmax(logits)), 1.7, "softmax").numpy()
    np.testing.assert_allclose(found, softmax(logits / 1.7), atol=1e-7)
    np.testing.assert_array_equal(found.argmax(axis=0), logits.argmax(axis=0))
    regions = torch.tensor([[0.9, 0.2]])
    np.testing.assert_allclose(tempered(regions, 2.0, "sigmoid"), torch.sigmoid(torch.logit(regions) / 2), atol=1e-6)


def test_without_a_voxel_there_is_no_temperature():
    with pytest.raises(MedsegError, match="no voxel"):
        fit_temperature(np.zeros((3, 0)), np.zeros(0, int), np.zeros(0), "softmax")


def test_a_sample_is_the_same_every_time_and_its_weighted_mean_that_of_all_voxels():
    random = np.random.default_rng(4)
    sure = random.random(30_000) < 0.95
    background = np.where(sure, 0.999, random.random(30_000)).astype(np.float32)
    probabilities = np.stack([background, 1 - background])
    truth = (random.random(30_000) < probabilities[1]).astype(np.uint8)

    def drawn(name):
        sampler = VoxelSampler(name, is_exclusive=True, voxels=1000)
        for part in np.array_split(np.arange(30_000), 7):
            sampler.add(probabilities[:, part], truth[part])
        return sampler.sample()

    first, again, other = drawn("a"), drawn("a"), drawn("b")
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    assert not np.array_equal(first.probabilities, other.probabilities)
    assert first.truth.size == 2000
    assert first.weight.sum() == pytest.approx(30_000)
    assert np.average(first.truth, weights=first.weight) == pytest.approx(truth.mean(), abs=0.003)
    assert join([first, other]).weight.sum() == pytest.approx(60_000)
