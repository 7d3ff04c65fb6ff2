"""Normalisation follows the channel's scheme."""

import numpy as np
import pytest

from medseg.errors import DatasetError
from medseg.planning.plan import ChannelPlan
from medseg.preprocessing.intensity import normalise_image

IMAGE = np.random.default_rng(0).normal(100, 20, (1, 4, 5, 6)).astype(np.float32)
EVERYWHERE = np.ones((4, 5, 6), bool)


def _normalised(plan: ChannelPlan, image: np.ndarray = IMAGE, inside: np.ndarray = EVERYWHERE) -> np.ndarray:
    return normalise_image(image, (plan,), inside)


def test_zscore_gives_zero_mean_and_unit_variance() -> None:
    result = _normalised(ChannelPlan(name="MR", normalisation="zscore"))
    assert abs(result.mean()) < 1e-5
    assert abs(result.std() - 1) < 1e-5


def test_masked_zscore_measures_inside_and_leaves_the_outside_zero() -> None:
    inside = np.zeros((4, 5, 6), bool)
    inside[1:3] = True
    image = np.where(inside, IMAGE, 0).astype(np.float32)
    result = _normalised(ChannelPlan(name="MR", normalisation="zscore", masked=True), image, inside)
    assert (result[0][~inside] == 0).all()
    assert abs(result[0][inside].mean()) < 1e-5
    assert abs(result[0][inside].std() - 1) < 1e-5


def test_ct_is_clipped_and_scaled_by_the_dataset() -> None:
    plan = ChannelPlan(name="CT", normalisation="ct", clip_low=90, clip_high=110, mean=100, std=10)
    np.testing.assert_allclose(_normalised(plan), (np.clip(IMAGE, 90, 110) - 100) / 10, rtol=1e-6)


def test_other_schemes_rescale_divide_or_leave_alone() -> None:
    rescaled = _normalised(ChannelPlan(name="x", normalisation="rescale_0_1"))
    assert rescaled.min() == 0
    assert rescaled.max() == pytest.approx(1)
    np.testing.assert_allclose(_normalised(ChannelPlan(name="x", normalisation="rgb")), IMAGE / 255, rtol=1e-6)
    np.testing.assert_array_equal(_normalised(ChannelPlan(name="x", normalisation="none")), IMAGE)


def test_a_constant_image_becomes_zero_not_nan() -> None:
    constant = np.full((1, 4, 5, 6), 7, np.float32)
    assert (_normalised(ChannelPlan(name="MR", normalisation="zscore"), constant) == 0).all()


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(DatasetError, match="plan has 2"):
        normalise_image(IMAGE, (ChannelPlan(name="a", normalisation="none"),) * 2, EVERYWHERE)
