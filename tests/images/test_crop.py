"""The non-zero region equals scipy's, and what is cut out goes back to where it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.images.crop import crop, nonzero_box, nonzero_mask, paste


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 0.98))
def test_the_mask_equals_scipys_filling_of_the_union_of_the_channels(seed, density):
    generator = np.random.default_rng(seed)
    shape = (2, *generator.integers(1, 9, 3))
    image = (generator.random(shape) < density).astype("f4") * -3
    union = (image != 0).any(axis=0)
    expected = ndimage.binary_fill_holes(union) if union.any() else np.ones_like(union)
    assert np.array_equal(nonzero_mask(image), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 0.5))
def test_the_box_holds_every_voxel_that_is_not_zero_and_is_as_small_as_can_be(seed, density):
    generator = np.random.default_rng(seed)
    image = (generator.random((1, 5, 6, 7)) < density).astype("f4")
    lower, upper = nonzero_box(image)
    if not image.any():
        assert (lower, upper) == ((0, 0, 0), (5, 6, 7))
        return
    places = np.argwhere(image[0])
    assert lower == tuple(places.min(axis=0))
    assert upper == tuple(places.max(axis=0) + 1)
    assert np.array_equal(paste(crop(image, lower, upper), lower, (5, 6, 7)), image)


def test_a_hollow_ball_is_filled_and_an_open_cup_is_not():
    ball = np.zeros((1, 7, 7, 7), "f4")
    ball[0, 1:6, 1:6, 1:6] = 1
    ball[0, 2:5, 2:5, 2:5] = 0
    assert nonzero_mask(ball).sum() == 125
    ball[0, 1, 3, 3] = 0
    assert nonzero_mask(ball).sum() == 125 - 27 - 1


def test_an_image_of_zeros_is_kept_whole():
    assert nonzero_box(np.zeros((1, 2, 3, 4), "f4")) == ((0, 0, 0), (2, 3, 4))
    assert nonzero_mask(np.zeros((1, 2, 3, 4), "f4")).all()


def test_cropping_is_a_view_and_pasting_fills_the_rest():
    labels = np.arange(24, dtype="u1").reshape(2, 3, 4)
    part = crop(labels, (0, 1, 1), (2, 3, 3))
    assert np.shares_memory(part, labels)
    whole = paste(part, (0, 1, 1), (2, 3, 4), fill=9)
    assert whole.dtype == np.uint8
    assert (whole == 9).sum() == 24 - 8 + (part == 9).sum()


@pytest.mark.parametrize(("lower", "upper"), [((0, 0, 0), (3, 3, 4)), ((-1, 0, 0), (1, 1, 1)), ((1, 1, 1), (1, 2, 2))])
def test_a_box_outside_the_array_is_refused(lower, upper):
    with pytest.raises(GeometryError):
        crop(np.zeros((2, 3, 4)), lower, upper)


def test_a_part_that_does_not_fit_is_refused():
    with pytest.raises(GeometryError):
        paste(np.zeros((2, 2, 2)), (0, 2, 0), (2, 3, 4))
