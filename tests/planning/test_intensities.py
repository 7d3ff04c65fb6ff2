"""The counted sample has exactly the statistics of nnU-Net's expanded one."""

import numpy as np
import pytest

from medseg.planning.intensities import SEED, describe_sample, draw_sample, merge_samples


def expanded(voxels, size, seed=SEED):
    return np.random.RandomState(seed).choice(voxels, size, replace=True)


@pytest.mark.parametrize("size", [1, 7, 5000, (1 << 20) + 12345])
def test_counting_draws_the_same_voxels_as_choice(size):
    voxels = np.random.default_rng(0).normal(size=977).astype(np.float32)
    sample = draw_sample(voxels, size, np.random.RandomState(SEED))
    values, counts = np.unique(expanded(voxels, size), return_counts=True)
    assert np.array_equal(sample.values, values)
    assert np.array_equal(sample.counts, counts)


def test_the_stream_moves_on_for_the_next_channel_as_in_nnunet():
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 50, (2, 300)).astype(np.float32)
    ours, theirs = np.random.RandomState(SEED), np.random.RandomState(SEED)
    for channel in (first, second):
        sample = draw_sample(channel, 2_000_003, ours)
        values, counts = np.unique(theirs.choice(channel, 2_000_003, replace=True), return_counts=True)
        assert np.array_equal(sample.values, values)
        assert np.array_equal(sample.counts, counts)


@pytest.mark.parametrize("size", [1, 2, 3, 200, 10_001])
def test_statistics_equal_numpys_on_the_expanded_sample(size):
    rng = np.random.default_rng(size)
    cases = [rng.normal(scale=300, size=n).astype(np.float32).round(1) for n in (5, 400, 90)]
    whole = np.concatenate([expanded(voxels, size) for voxels in cases]).astype(np.float64)
    samples = [draw_sample(voxels, size, np.random.RandomState(SEED)) for voxels in cases]
    found = describe_sample(merge_samples(samples), (0.0, 0.5, 50.0, 99.5, 100.0))
    assert found.mean == pytest.approx(whole.mean())
    assert found.std == pytest.approx(whole.std())
    assert (found.minimum, found.maximum) == (whole.min(), whole.max())
    assert found.percentiles == pytest.approx(np.percentile(whole, (0.0, 0.5, 50.0, 99.5, 100.0)))


def test_the_order_of_cases_makes_no_difference():
    rng = np.random.default_rng(3)
    samples = [draw_sample(rng.normal(size=50).astype(np.float32), 100, np.random.RandomState(i)) for i in range(4)]
    assert describe_sample(merge_samples(samples)) == describe_sample(merge_samples(samples[::-1]))


def test_a_case_without_foreground_takes_no_part_and_draws_nothing():
    stream = np.random.RandomState(SEED)
    empty = draw_sample(np.empty(0, np.float32), 1000, stream)
    full = draw_sample(np.arange(5, dtype=np.float32), 1000, stream)
    assert len(empty.values) == 0
    assert np.array_equal(merge_samples([empty, full]).counts, full.counts)
    assert full.counts.sum() == 1000
