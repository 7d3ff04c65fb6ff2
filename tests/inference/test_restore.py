import itertools

import numpy as np
import pytest
import torch
from skimage.transform import resize

from medseg.images.resample import resize_matrix, separate_axis
from medseg.inference.decision import LargestClass, RegionsFound
from medseg.inference.restore import neighbours, restore_labels
from medseg.inference.slab import Rows
from medseg.preprocessing.grid import Grid


def grid_of(prepared, cropped, spacing=(1.0, 1.0, 1.0), target=(1.0, 1.0, 1.0), **others) -> Grid:
    options = {"permutation": (0, 1, 2), "flips": (False, False, False), "crop_lower": (0, 0, 0), "file_shape": cropped}
    return Grid(
        cropped_shape=cropped,
        prepared_shape=prepared,
        cropped_spacing=spacing,
        prepared_spacing=target,
        **(options | others),
    )


def rows_of(scores: np.ndarray, lengths=(3, 1, 4, 2)):
    """Rows in parts of changing length, in a buffer that is overwritten as the sliding window's is."""
    start, lengths = 0, itertools.cycle(lengths)
    while start < scores.shape[1]:
        part = torch.from_numpy(scores[:, start : start + next(lengths)].copy())
        yield Rows(start, part)
        start += part.shape[1]
        part.fill_(float("nan"))


def noise(classes, *shape):
    return np.random.default_rng(1).random((classes, *shape)).astype(np.float32)


def blobs(classes, *shape):
    """Smooth scores with large regions, as a trained network gives."""
    axes = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    centres = np.random.default_rng(2).random((classes, 3))
    logits = np.stack([-20 * sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) for centre in centres])
    scores = np.exp(logits)
    return (scores / scores.sum(0)).astype(np.float32)


def everything_then_argmax(scores, grid):
    """Every class resampled to the crop with the same matrices, then the largest."""
    separate = separate_axis(grid.prepared_spacing, grid.cropped_spacing)
    z, y, x = (
        resize_matrix(n, size, 0 if axis == separate else 1)
        for axis, (n, size) in enumerate(zip(grid.prepared_shape, grid.cropped_shape, strict=True))
    )
    return np.einsum("kzyx,az,by,cx->kabc", scores, z, y, x, optimize=True).argmax(0)


SHAPES = [
    ((12, 14, 10), (17, 23, 15)),
    ((12, 14, 10), (7, 9, 6)),
    ((12, 14, 10), (12, 20, 10)),
    ((5, 14, 10), (9, 14, 4)),
]


@pytest.mark.parametrize(("prepared", "cropped"), SHAPES)
@pytest.mark.parametrize("kind", [noise, blobs])
def test_no_voxel_differs_from_resampling_every_class_and_taking_the_largest(prepared, cropped, kind):
    scores, grid = kind(6, *prepared), grid_of(prepared, cropped)
    np.testing.assert_array_equal(
        restore_labels(rows_of(scores), grid, LargestClass(6)), everything_then_argmax(scores, grid)
    )


@pytest.mark.parametrize("kind", [noise, blobs])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_voxel_differs_where_one_axis_is_much_coarser(kind, axis):
    prepared, cropped, target = [12, 14, 10], [17, 23, 15], [1.0, 1.0, 1.0]
    target[axis] = 5.0
    cropped[axis] = 8
    grid = grid_of(tuple(prepared), tuple(cropped), target=tuple(target))
    assert separate_axis(grid.prepared_spacing, grid.cropped_spacing) == axis
    scores = kind(5, *prepared)
    np.testing.assert_array_equal(
        restore_labels(rows_of(scores), grid, LargestClass(5)), everything_then_argmax(scores, grid)
    )


WRITTEN = (1, 3, 2, 5)
"""In another order than the indices, so that a later region overwrites a larger one."""


def everything_then_regions(scores, grid):
    """Every region resampled to the crop with the same matrices, then those above 1/2 painted in their order."""
    separate = separate_axis(grid.prepared_spacing, grid.cropped_spacing)
    z, y, x = (
        resize_matrix(n, size, 0 if axis == separate else 1)
        for axis, (n, size) in enumerate(zip(grid.prepared_shape, grid.cropped_shape, strict=True))
    )
    resampled = np.einsum("kzyx,az,by,cx->kabc", scores, z, y, x, optimize=True)
    labels = np.zeros(grid.cropped_shape, np.uint8)
    for written, region in zip(WRITTEN, resampled, strict=True):
        labels[region > 0.5] = written
    return labels


@pytest.mark.parametrize(("prepared", "cropped"), [*SHAPES, ((9, 7, 8), (9, 7, 8))])
@pytest.mark.parametrize("kind", [noise, blobs])
def test_no_voxel_differs_from_resampling_every_region_and_painting_those_above_one_half(prepared, cropped, kind):
    scores, grid = kind(4, *prepared), grid_of(prepared, cropped)
    if kind is blobs:
        scores = (0.3 + scores).clip(0, 1)
    expected = everything_then_regions(scores, grid)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(restore_labels(rows_of(scores), grid, RegionsFound(WRITTEN)), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_regions_are_restored_slice_by_slice_where_one_axis_is_much_coarser(axis):
    prepared, cropped, target = [12, 14, 10], [17, 23, 15], [1.0, 1.0, 1.0]
    target[axis], cropped[axis] = 5.0, 8
    scores, grid = noise(4, *prepared), grid_of(tuple(prepared), tuple(cropped), target=tuple(target))
    found = restore_labels(rows_of(scores), grid, RegionsFound(WRITTEN))
    np.testing.assert_array_equal(found, everything_then_regions(scores, grid))


def test_logits_of_regions_become_probabilities_in_float32():
    scores = torch.tensor([-1.0, 0.0, 1e-4, 0.01, 1.0]).reshape(1, 1, 1, 5)
    grid = grid_of((1, 1, 5), (1, 1, 5))
    decision = RegionsFound((1,), logits=True)
    assert restore_labels([Rows(0, scores)], grid, decision).ravel().tolist() == [0, 0, 1, 1, 1]
    # In half precision the sigmoid of a small logit would be rounded to 1/2, which is not above it.
    assert restore_labels([Rows(0, scores.half())], grid, decision).ravel().tolist() == [0, 0, 1, 1, 1]


def test_almost_every_voxel_is_as_with_skimage():
    scores, grid = blobs(5, 12, 14, 10), grid_of((12, 14, 10), (19, 22, 13))
    options = {"order": 1, "mode": "edge", "anti_aliasing": False}
    expected = np.stack([resize(score, grid.cropped_shape, **options) for score in scores]).argmax(0)
    assert (restore_labels(rows_of(scores), grid, LargestClass(5)) != expected).mean() < 1e-3


def test_without_resampling_the_largest_class_is_taken_as_it_is():
    scores = noise(4, 9, 7, 8)
    grid = grid_of((9, 7, 8), (9, 7, 8))
    np.testing.assert_array_equal(restore_labels(rows_of(scores), grid, LargestClass(4)), scores.argmax(0))


@pytest.mark.parametrize("cropped", [(6, 6, 6), (9, 9, 9)])
def test_the_lowest_of_equal_classes_wins(cropped):
    scores = np.full((4, 6, 6, 6), 0.25, np.float32)
    assert not restore_labels(rows_of(scores), grid_of((6, 6, 6), cropped), LargestClass(4)).any()
    scores[0] = 0
    assert (restore_labels(rows_of(scores), grid_of((6, 6, 6), cropped), LargestClass(4)) == 1).all()


def test_labels_are_uint8_and_past_256_classes_uint16():
    scores = noise(300, 2, 3, 2)
    found = restore_labels(rows_of(scores), grid_of((2, 3, 2), (4, 3, 3)), LargestClass(300))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, everything_then_argmax(scores, grid_of((2, 3, 2), (4, 3, 3))))
    assert restore_labels(rows_of(scores[:256]), grid_of((2, 3, 2), (2, 3, 2)), LargestClass(256)).dtype == np.uint8


ORIENTATIONS = [
    (permutation, flips)
    for permutation in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS)
def test_labels_come_back_to_the_files_own_axes_and_outside_the_crop(permutation, flips):
    truth = np.random.default_rng(0).integers(0, 5, (9, 8, 7)).astype(np.uint8)
    truth[:2], truth[:, -1:], truth[..., :1] = 0, 0, 0
    whole = Grid(
        file_shape=(9, 8, 7),
        permutation=permutation,
        flips=flips,
        crop_lower=(0, 0, 0),
        cropped_shape=tuple((9, 8, 7)[axis] for axis in permutation),
        cropped_spacing=(1, 1, 1),
        prepared_shape=(1, 1, 1),
        prepared_spacing=(1, 1, 1),
    )
    oriented = whole.orient(truth)
    places = np.argwhere(oriented)
    lower, upper = places.min(0), places.max(0) + 1
    shape = tuple(int(size) for size in upper - lower)
    grid = whole.model_copy(
        update={"crop_lower": tuple(lower.tolist()), "cropped_shape": shape, "prepared_shape": shape}
    )
    cropped = oriented[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))]
    scores = np.moveaxis(np.eye(5, dtype=np.float32)[cropped], -1, 0)
    np.testing.assert_array_equal(restore_labels(rows_of(np.ascontiguousarray(scores)), grid, LargestClass(5)), truth)


def test_neighbours_are_the_rows_of_the_resize_matrix():
    for n_in, n_out, order in [(10, 17, 1), (17, 10, 1), (7, 7, 1), (10, 4, 0), (1, 5, 1), (5, 1, 1)]:
        axis, matrix = neighbours(n_in, n_out, order), np.zeros((n_out, n_in))
        rows = np.arange(n_out)
        matrix[rows, axis.upper] += axis.upper_weight
        matrix[rows, axis.lower] += axis.lower_weight
        np.testing.assert_allclose(matrix, resize_matrix(n_in, n_out, order), atol=1e-6)
        assert ((axis.upper - axis.lower) <= 1).all()
