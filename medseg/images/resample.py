"""Bringing images and Labels to another number of voxels, as nnU-Net does but with three small matrices.

Knows nothing of files or orientation. Interpolation on a regular grid is linear and separable, so one matrix per
axis, read off scipy's own zoom of unit impulses, gives ``skimage.transform.resize(mode="edge", anti_aliasing=False)``
up to rounding, as three matrix products. The rules (cubic for images, label by label for Labels, slice by slice where
one axis is much coarser) are nnU-Net's ``default_resampling`` (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.arrays import Image, Labels, Spacing, Triple

Box = tuple[slice, slice, slice]

# A label wins a voxel with half of the weight or more. Sums that are exactly one half must not depend on the order in
# which their terms were added, so the threshold lies a few thousand float64 roundings below.
_HALF = 0.5 - 1e-12

_NEGLIGIBLE = 1e-9
_SHORT_AXIS, _BLOCK_ROWS = 128, 64


def resampled_shape(shape: Triple, spacing: Spacing, new_spacing: Spacing) -> Triple:
    """Voxels per axis (z, y, x) at the new spacing (mm): round(old / new x shape), at least 1."""
    z, y, x = (max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return z, y, x


def separate_axis(spacing: Spacing, new_spacing: Spacing, threshold: float = 3.0) -> int | None:
    """The axis (0, 1 or 2) that is so coarse that it is resampled on its own, or None.

    The source's spacing decides when its largest value is more than ``threshold`` times its smallest, otherwise the
    target's; None when neither is, or when two axes share the largest spacing.
    """
    for candidate in (spacing, new_spacing):
        largest = max(candidate)
        if largest / min(candidate) > threshold:
            coarsest = [axis for axis, value in enumerate(candidate) if largest / value == 1]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


@lru_cache(maxsize=256)
def resize_matrix(n_in: int, n_out: int, order: int) -> NDArray[np.float64]:
    """Weights (n_out, n_in) that take ``n_in`` samples to ``n_out`` along one axis; read-only and kept for reuse.

    Spline order 1 to 5 as ``scipy.ndimage.zoom(grid_mode=True, mode="nearest")``, which is what skimage's resize
    calls. Order 0 takes the sample nearest to (i + 0.5) n_in / n_out - 0.5 as nnU-Net's map_coordinates does.
    """
    if n_in == n_out:
        matrix = np.eye(n_in)
    elif order == 0:
        matrix = np.zeros((n_out, n_in))
        matrix[np.arange(n_out), nearest_samples(n_in, n_out)] = 1.0
    else:
        matrix = np.empty((n_out, n_in))
        impulse = np.zeros(n_in)
        for i in range(n_in):
            impulse[i] = 1.0
            matrix[:, i] = ndimage.zoom(impulse, n_out / n_in, order=order, mode="nearest", grid_mode=True)
            impulse[i] = 0.0
    matrix.flags.writeable = False
    return matrix


def nearest_samples(n_in: int, n_out: int) -> NDArray[np.intp]:
    """For each of ``n_out`` samples the index of the input sample that order 0 takes; halves go up, as in scipy."""
    places = n_in / n_out * (np.arange(n_out) + 0.5) - 0.5
    return ndimage.map_coordinates(np.arange(n_in), places[None], order=0, mode="nearest").astype(np.intp)


def resample_image(
    image: Image, new_shape: Triple, separate: int | None, order: int = 3, order_separate: int = 0
) -> Image:
    """An image (C, Z, Y, X) at ``new_shape`` (z, y, x), float32, clipped to the range of its input.

    ``separate`` names the axis from ``separate_axis``: then every slice across it is resampled and clipped on its own
    with ``order``, and that axis afterwards with ``order_separate``. Without it the range is the channel's.
    """
    if image.shape[1:] == tuple(new_shape):
        return image.copy()
    result = np.empty((len(image), *new_shape), dtype=np.float32)
    for source, target in zip(image, result, strict=True):
        target[...] = _resample_channel(source, new_shape, separate, order, order_separate)
    return result


def resample_labels(
    labels: Labels,
    new_shape: Triple,
    separate: int | None,
    classes: Sequence[int] | None = None,
    unknown: int | None = None,
) -> Labels:
    """Labels (Z, Y, X) at ``new_shape`` (z, y, x) and of the same type; never a value that was not there.

    Label by label in ascending order: linear weights, one half or more wins, a later label overwrites, voxels that no
    label wins are 0. With ``separate`` this is done slice by slice, and that axis is then resampled to the nearest
    slice. Each label costs only its own bounding box. ``classes`` limits the labels; by default all that occur.
    ``unknown`` is a label whose voxels may be anything: where it has any weight and no label (0 among them) wins, the
    voxel is unknown too, because 0 would claim more than is known there.
    """
    if labels.shape == tuple(new_shape):
        return labels.copy()
    matrices = _matrices(labels.shape, new_shape, separate, 1, np.float64)
    sizes = [
        n if axis == separate else size for axis, (n, size) in enumerate(zip(labels.shape, new_shape, strict=True))
    ]
    result = np.zeros(sizes, dtype=labels.dtype)
    for value, box in _boxes(labels, classes):
        rows, weights = _restrict(matrices, box)
        if all(row.stop > row.start for row in rows):
            won = _multiply((labels[box] == value).astype(np.float64), weights) >= _HALF
            result[rows][won] = value
    if unknown is not None and (labels == unknown).any():
        weight, clear = (_multiply((labels == value).astype(np.float64), matrices) for value in (unknown, 0))
        result[(result == 0) & (weight > _NEGLIGIBLE) & (clear < _HALF)] = unknown
    if separate is not None:
        nearest = nearest_samples(labels.shape[separate], new_shape[separate])
        result = result.take(nearest, axis=separate)
    return result


def _resample_channel(
    source: NDArray[np.float32], new_shape: Triple, separate: int | None, order: int, order_separate: int
) -> NDArray[np.float32]:
    matrices = _matrices(source.shape, new_shape, separate, order, np.float32)
    across = None if separate is None else tuple(axis for axis in range(3) if axis != separate)
    keep = separate is not None
    lower, upper = source.min(axis=across, keepdims=keep), source.max(axis=across, keepdims=keep)
    result = np.clip(_multiply(source, matrices), lower, upper)
    if separate is None or source.shape[separate] == new_shape[separate]:
        return result
    if order_separate == 0:
        return result.take(nearest_samples(source.shape[separate], new_shape[separate]), axis=separate)
    matrix = resize_matrix(source.shape[separate], new_shape[separate], order_separate).astype(np.float32)
    return _along(result, matrix, separate)


def _matrices(
    shape: tuple[int, ...], new_shape: Triple, separate: int | None, order: int, dtype: type[np.floating]
) -> list[NDArray[Any] | None]:
    """One matrix per axis, None where nothing changes (the separate axis has its own turn later)."""
    return [
        None if n == size or axis == separate else resize_matrix(n, size, order).astype(dtype)
        for axis, (n, size) in enumerate(zip(shape, new_shape, strict=True))
    ]


def _multiply(array: NDArray[Any], matrices: Sequence[NDArray[Any] | None]) -> NDArray[Any]:
    """Apply one matrix per axis; the axis that shrinks most goes first, so that the others have less to do."""
    work = [
        (matrix.shape[0] / matrix.shape[1], axis, matrix) for axis, matrix in enumerate(matrices) if matrix is not None
    ]
    for _, axis, matrix in sorted(work, key=lambda item: item[:2]):
        array = _along(array, matrix, axis)
    return array


def _along(array: NDArray[Any], matrix: NDArray[Any], axis: int) -> NDArray[Any]:
    """Apply a matrix along one axis, a block of output rows at a time with only the input that it can feel."""
    z, y, x = array.shape
    shape = [z, y, x]
    shape[axis] = len(matrix)
    result = np.empty(shape, dtype=np.result_type(array, matrix))
    for rows, columns in _blocks(matrix):
        block = matrix[rows, columns]
        if axis == 0:
            np.matmul(block, array[columns].reshape(-1, y * x), out=result[rows].reshape(-1, y * x))
        elif axis == 1:
            np.matmul(block, array[:, columns], out=result[:, rows])
        else:
            np.matmul(array.reshape(z * y, x)[:, columns], block.T, out=result.reshape(z * y, -1)[:, rows])
    return result


def _blocks(matrix: NDArray[Any]) -> list[tuple[slice, slice]]:
    """Output rows and the input columns that matter to them; short axes are one block.

    A cubic spline's weights fall by 0.268 per sample, so what is left out (1e-9) is far below float32's rounding;
    linear weights are zero there.
    """
    if matrix.shape[1] <= _SHORT_AXIS:
        return [(slice(None), slice(None))]
    blocks = []
    for start in range(0, len(matrix), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        felt = np.flatnonzero((np.abs(matrix[rows]) > _NEGLIGIBLE).any(axis=0))
        blocks.append((rows, slice(int(felt[0]), int(felt[-1]) + 1) if felt.size else slice(0, 1)))
    return blocks


def _boxes(labels: Labels, classes: Sequence[int] | None) -> list[tuple[int, Box]]:
    """Every label that occurs (and is asked for) with its bounding box, ascending; a lowest label 0 needs no work."""
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest >= 0 and largest <= 65535:
        values: list[int] = list(range(1, largest + 1))
        found = ndimage.find_objects(labels.astype(np.int32))
    else:
        present = np.unique(labels)
        values = [int(value) for value in present]
        found = ndimage.find_objects((np.searchsorted(present, labels) + 1).astype(np.int32))
    wanted = set(values) if classes is None else {int(value) for value in classes}
    return [
        (value, box)
        for value, box in zip(values, found, strict=True)
        if box is not None and value in wanted and not value == smallest == 0
    ]


def _restrict(matrices: Sequence[NDArray[Any] | None], box: Box) -> tuple[Box, list[NDArray[Any] | None]]:
    """Output rows that a bounding box can reach, and the matrices cut to them."""
    rows: list[slice] = []
    weights: list[NDArray[Any] | None] = []
    for matrix, part in zip(matrices, box, strict=True):
        if matrix is None:
            rows.append(part)
            weights.append(None)
            continue
        reached = np.flatnonzero(matrix[:, part].any(axis=1))
        row = slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 0)
        rows.append(row)
        weights.append(matrix[row, part])
    z, y, x = rows
    return (z, y, x), weights
