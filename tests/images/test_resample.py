"""The matrices do what skimage and scipy do when they are called as nnU-Net calls them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from medseg.images.resample import resample_image, resample_labels, resampled_shape, resize_matrix, separate_axis

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


def reference_image(image, new_shape, separate, order=3):
    """nnU-Net's resample_data_or_seg for images, written down again with skimage and scipy."""
    if image.shape[1:] == new_shape:
        return image
    keywords = {"order": order, "mode": "edge", "anti_aliasing": False, "clip": True, "preserve_range": True}
    if separate is None:
        return np.stack([resize(channel.astype(float), new_shape, **keywords) for channel in image])
    inner = np.delete(new_shape, separate)
    result = []
    for channel in image.astype(float):
        slices = [resize(part, inner, **keywords) for part in np.moveaxis(channel, separate, 0)]
        result.append(nearest_along(np.stack(slices, separate), new_shape, separate))
    return np.stack(result)


def nearest_along(array, new_shape, axis):
    if array.shape[axis] == new_shape[axis]:
        return array
    scales = np.divide(array.shape, new_shape)
    places = [scale * (grid + 0.5) - 0.5 for scale, grid in zip(scales, np.indices(new_shape), strict=True)]
    return ndimage.map_coordinates(array, np.array(places), order=0, mode="nearest")


def reference_resize_labels(labels, new_shape, near_half=None):
    """batchgenerators' resize_segmentation of order 1; ``near_half`` collects the voxels that rounding decides."""
    result = np.zeros(new_shape, labels.dtype)
    for value in np.unique(labels):
        weights = resize((labels == value).astype(float), new_shape, 1, mode="edge", clip=True, anti_aliasing=False)
        result[weights >= 0.5] = value
        if near_half is not None:
            near_half |= np.abs(weights - 0.5) < 1e-9
    return result


def blobs(generator, shape, classes=4):
    """Labels with smooth borders, so that there are voxels of all kinds of weights."""
    noise = ndimage.gaussian_filter(generator.normal(size=(classes, *shape)), (0, 1.5, 1.5, 1.5))
    return noise.argmax(axis=0).astype("u1")


@settings(max_examples=40, deadline=None)
@given(SHAPES, SHAPES, st.sampled_from([1, 3]), st.integers(0, 10**6))
def test_an_image_equals_skimages_resize(shape, new_shape, order, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype("f4")
    result = resample_image(image, new_shape, None, order=order)
    assert result.dtype == np.float32
    assert np.abs(result - reference_image(image, new_shape, None, order)).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 2), st.integers(0, 10**6))
def test_with_a_separate_axis_an_image_equals_nnunets_slices(shape, new_shape, separate, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype("f4")
    result = resample_image(image, new_shape, separate)
    assert np.abs(result - reference_image(image, new_shape, separate)).max() < 1e-5


def test_each_channel_is_clipped_to_its_own_range_and_each_slice_to_its_own():
    image = np.random.default_rng(0).normal(size=(2, 6, 6, 6)).astype("f4")
    image[1] *= 100
    result = resample_image(image, (9, 9, 9), None)
    for before, after in zip(image, result, strict=True):
        assert before.min() <= after.min()
        assert after.max() <= before.max()
        assert after.max() == before.max() or after.min() == before.min(), "cubic splines overshoot, so something clips"
    result = resample_image(image, (6, 11, 11), 0)
    assert (result.max(axis=(2, 3)) <= image.max(axis=(2, 3))).all()


@settings(max_examples=30, deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 10**6))
def test_labels_equal_nnunets_except_where_rounding_decides(shape, new_shape, seed):
    labels = blobs(np.random.default_rng(seed), shape)
    tied = np.zeros(new_shape, bool)
    expected = reference_resize_labels(labels, new_shape, tied)
    assert np.array_equal(resample_labels(labels, new_shape, None)[~tied], expected[~tied])


@settings(max_examples=30, deadline=None)
@given(SHAPES, SHAPES, st.integers(0, 2), st.integers(0, 10**6))
def test_with_a_separate_axis_labels_equal_nnunets_slices(shape, new_shape, separate, seed):
    labels = blobs(np.random.default_rng(seed), shape)
    inner = tuple(np.delete(new_shape, separate))
    ties, slices = [], []
    for part in np.moveaxis(labels, separate, 0):
        tied = np.zeros(inner, bool)
        slices.append(reference_resize_labels(part, inner, tied))
        ties.append(tied)
    expected = nearest_along(np.stack(slices, separate), new_shape, separate)
    clear = ~nearest_along(np.stack(ties, separate).astype("u1"), new_shape, separate).astype(bool)
    assert np.array_equal(resample_labels(labels, new_shape, separate)[clear], expected[clear])


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8"])
def test_no_label_appears_that_was_not_there(dtype):
    labels = blobs(np.random.default_rng(0), (9, 10, 11)).astype(dtype)
    labels[labels == 3] = 200
    for shape in ((5, 20, 13), (18, 20, 22), (3, 3, 3)):
        result = resample_labels(labels, shape, None)
        assert result.dtype == labels.dtype
        assert set(np.unique(result)) <= {0, 1, 2, 200}


def test_negative_and_huge_labels_are_labels_like_any_other():
    labels = blobs(np.random.default_rng(0), (9, 10, 11))
    odd = np.array([-1, 0, 7, 10**6], "i4")[labels]
    expected = reference_resize_labels(odd, (14, 7, 15))
    assert np.array_equal(resample_labels(odd, (14, 7, 15), None), expected)


def test_only_the_classes_asked_for_are_resampled():
    labels = blobs(np.random.default_rng(0), (9, 10, 11))
    result = resample_labels(labels, (12, 12, 12), None, classes=(0, 2))
    assert set(np.unique(result)) == {0, 2}


@settings(max_examples=30, deadline=None)
@given(SHAPES, SHAPES, st.sampled_from([None, 0, 1, 2]), st.integers(0, 10**6))
def test_what_is_unknown_stays_unknown_where_no_label_wins_and_costs_no_label_a_voxel(shape, new_shape, axis, seed):
    labels = blobs(np.random.default_rng(seed), shape, classes=5)
    result = resample_labels(labels, new_shape, axis, unknown=4)
    without = resample_labels(labels, new_shape, axis)
    known = resample_labels(np.where(labels == 0, 5, labels), new_shape, axis)  # 5 where the background wins
    assert np.array_equal(result[known > 0], without[known > 0])
    assert set(np.unique(result[known == 0])) <= {0, 4}
    untouched = resample_labels(np.where(labels == 4, 0, labels), new_shape, axis)
    assert np.array_equal(result[result < 4], untouched[result < 4])


def test_between_a_structure_the_background_and_the_unknown_nothing_is_claimed():
    labels = np.array([0, 1, 4, 4], "u1").reshape(2, 2, 1)
    assert resample_labels(labels, (1, 1, 1), None, unknown=4).item() == 4
    labels = np.array([0, 1, 2, 4], "u1").reshape(2, 2, 1)
    assert resample_labels(labels, (1, 1, 1), None).item() == 0
    assert resample_labels(labels, (1, 1, 1), None, unknown=4).item() == 4
    assert resample_labels(labels, (2, 1, 1), 1, unknown=4).ravel().tolist() == [1, 4]


def test_a_tie_goes_to_the_later_label_on_every_machine():
    labels = np.zeros((2, 2, 2), "u1")
    labels[1] = 3
    assert (resample_labels(labels, (1, 1, 1), None) == 3).all()
    labels[0] = 5
    assert (resample_labels(labels, (1, 1, 1), None) == 5).all()


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("n_in", "n_out"), [(7, 7), (7, 14), (7, 10), (10, 7), (1, 5), (5, 1), (2, 3), (300, 200)])
def test_a_matrix_equals_scipy_on_one_axis(n_in, n_out, order):
    samples = np.random.default_rng(0).normal(size=n_in)
    matrix = resize_matrix(n_in, n_out, order)
    assert matrix.shape == (n_out, n_in)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert matrix is resize_matrix(n_in, n_out, order)
    places = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    expected = ndimage.map_coordinates(samples, places[None], order=order, mode="nearest")
    assert np.allclose(matrix @ samples, expected, atol=1e-9)


def test_a_linear_matrix_equals_torchs_interpolation():
    torch = pytest.importorskip("torch")
    samples = np.random.default_rng(0).normal(size=(1, 1, 9))
    for n_out in (4, 13, 18):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(samples), size=n_out, mode="linear", align_corners=False
        )
        assert np.allclose(resize_matrix(9, n_out, 1) @ samples[0, 0], expected[0, 0].numpy())


def test_the_cached_matrix_can_not_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        resize_matrix(5, 6, 3)[0, 0] = 1


def test_an_unchanged_shape_gives_a_copy():
    image, labels = np.ones((1, 2, 3, 4), "f4"), np.ones((2, 3, 4), "u1")
    assert not np.shares_memory(resample_image(image, (2, 3, 4), None), image)
    assert not np.shares_memory(resample_labels(labels, (2, 3, 4), None), labels)


def test_the_new_shape_is_rounded_and_never_empty():
    assert resampled_shape((100, 50, 3), (1.0, 0.7, 2.0), (1.5, 1.0, 9.0)) == (67, 35, 1)
    assert resampled_shape((5, 5, 1), (1.0, 1.0, 1.0), (2.0, 1.0, 4.0)) == (2, 5, 1)


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((1, 1, 3.5), (4, 1, 1), 2),
        ((1, 1, 1), (1, 4, 1), 1),
        ((0.24, 1.25, 1.25), (1, 1, 1), None),
        ((0.24, 1.25, 1.25), (5, 1, 1), None),
        ((5, 5, 1), (5, 1, 1), None),
    ],
)
def test_the_separate_axis_follows_nnunets_rule(spacing, new_spacing, axis):
    assert separate_axis(tuple(map(float, spacing)), tuple(map(float, new_spacing))) == axis


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_long_axes_which_are_worked_through_in_blocks_give_the_same(axis):
    shape, new_shape = [3, 4, 5], [4, 5, 3]
    shape[axis], new_shape[axis] = 300, 421
    shape, new_shape = tuple(shape), tuple(new_shape)
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, *shape)).astype("f4")
    assert np.abs(resample_image(image, new_shape, None) - reference_image(image, new_shape, None)).max() < 1e-5
    labels = blobs(generator, shape)
    tied = np.zeros(new_shape, bool)
    expected = reference_resize_labels(labels, new_shape, tied)
    assert np.array_equal(resample_labels(labels, new_shape, None)[~tied], expected[~tied])
