"""Rows of class scores on the prepared grid become Labels on the file's own grid.

Knows nothing of networks. Exactly what resampling every class to the crop box and taking the largest gives (nnU-Net's
export: linear, slice by slice where one axis is much coarser), but row by row, so that memory grows with the classes
times one row. Where all neighbours of a voxel have the same largest class, that class also has the largest
interpolated score, because the weights are not negative; only the other voxels are interpolated for all classes.
Scores in half precision are interpolated in float32 and rounded to half again, as nnU-Net's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.arrays import Labels, label_dtype
from medseg.images.resample import resize_matrix, separate_axis
from medseg.inference.slab import Rows
from medseg.preprocessing.grid import Grid

_WORTH_GATHERING = 0.25
"""Share of a row's voxels above which the whole row is interpolated: reading scattered voxels costs more each."""


def restore_labels(rows: Iterable[Rows], grid: Grid, classes: int) -> Labels:
    """Label indices ``(Z, Y, X)`` on the file's own grid and axes; outside the crop box 0.

    ``rows`` hold the scores of the prepared image in ascending order, each row once; the lowest of equal classes wins.
    """
    result = np.zeros(grid.file_shape, dtype=label_dtype(classes - 1))
    box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    cropped = grid.orient(result)[box]  # a view: what is written there lies in the file's axes already
    finished = _as_they_are(rows) if grid.prepared_shape == grid.cropped_shape else _resampled(rows, grid)
    for index, labels in finished:
        cropped[index] = labels
    return result


def _as_they_are(rows: Iterable[Rows]) -> Iterator[tuple[int, NDArray[np.integer]]]:
    for part in rows:
        labels = largest(part.scores).cpu().numpy()
        for offset, row in enumerate(labels):
            yield part.start + offset, row


def _resampled(rows: Iterable[Rows], grid: Grid) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """The crop's rows in ascending order, each as soon as the prepared rows on both sides of it are there."""
    separate = separate_axis(grid.prepared_spacing, grid.cropped_spacing)
    z, y, x = (
        neighbours(n, size, order=0 if axis == separate else 1)
        for axis, (n, size) in enumerate(zip(grid.prepared_shape, grid.cropped_shape, strict=True))
    )
    plane: _Plane | None = None
    waiting = 0
    before: _Row | None = None
    for part in rows:
        plane = plane or _Plane(y, x, part.scores.device)
        end = part.start + part.scores.shape[1]
        known = {} if before is None else {part.start - 1: before}
        while waiting < len(z.lower) and z.upper[waiting] < end:
            for index in (int(z.lower[waiting]), int(z.upper[waiting])):
                if index not in known:
                    known[index] = _Row.of(part.scores[:, index - part.start])
            lower, upper = known[int(z.lower[waiting])], known[int(z.upper[waiting])]
            yield waiting, plane.labels(lower, upper, *z.weights(waiting)).cpu().numpy()
            waiting += 1
            known = {index: row for index, row in known.items() if index >= z.lower[min(waiting, len(z.lower) - 1)]}
        before = _Row.of(part.scores[:, -1].clone())  # the part is a view that the next one overwrites


@dataclass(frozen=True)
class Neighbours:
    """For each sample of a finer or coarser axis the two samples between which it lies, and their weights."""

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    lower_weight: NDArray[np.float32]
    upper_weight: NDArray[np.float32]

    def weights(self, index: int) -> tuple[float, float]:
        return float(self.lower_weight[index]), float(self.upper_weight[index])


def neighbours(n_in: int, n_out: int, order: int) -> Neighbours:
    """Read the one or two weights of each row off ``resize_matrix`` for order 0 or 1."""
    matrix = resize_matrix(n_in, n_out, order)
    there = np.abs(matrix) > 1e-9
    rows = np.arange(n_out)
    lower = there.argmax(axis=1)
    upper = n_in - 1 - there[:, ::-1].argmax(axis=1)
    lower_weight = matrix[rows, lower].astype(np.float32)
    upper_weight = np.where(upper == lower, 0, matrix[rows, upper]).astype(np.float32)
    return Neighbours(lower, upper, lower_weight, upper_weight)


@dataclass(frozen=True)
class _Row:
    """One prepared row: its scores ``(K, Y, X)`` and the largest class of each voxel."""

    scores: Tensor
    labels: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> _Row:
        return cls(scores, largest(scores))


class _Plane:
    """Interpolation within a row, (Y, X) of the prepared grid to (Y, X) of the crop."""

    def __init__(self, y: Neighbours, x: Neighbours, device: torch.device) -> None:
        self._y0, self._y1, self._wy0, self._wy1 = _tensors(y, device)
        self._x0, self._x1, self._wx0, self._wx1 = _tensors(x, device)

    def labels(self, lower: _Row, upper: _Row, lower_weight: float, upper_weight: float) -> Tensor:
        """The largest class on the plane that lies between two prepared rows."""
        settled = _settled(lower.labels, upper.labels)
        result = lower.labels[self._y0][:, self._x0]
        open_y, open_x = torch.nonzero(~settled[self._y0][:, self._x0], as_tuple=True)
        if len(open_y) == 0:
            return result
        scores = lower.scores.float()
        if upper is not lower:
            scores = _mixed(scores, upper.scores.float(), lower_weight, upper_weight)
        if len(open_y) > _WORTH_GATHERING * result.numel():
            return self._everywhere(scores, lower.scores.dtype)
        result[open_y, open_x] = largest(self._at(scores, open_y, open_x).to(lower.scores.dtype))
        return result

    def _everywhere(self, scores: Tensor, dtype: torch.dtype) -> Tensor:
        """Class by class, so that only the best score so far is kept; compared as ``dtype``."""
        best = self._one_class(scores[0]).to(dtype)
        labels = torch.zeros(best.shape, dtype=_dtype(len(scores)), device=best.device)
        for index in range(1, len(scores)):
            candidate = self._one_class(scores[index]).to(dtype)
            labels[candidate > best] = index
            torch.maximum(best, candidate, out=best)
        return labels

    def _one_class(self, scores: Tensor) -> Tensor:
        along_y = _mixed(scores[self._y0], scores[self._y1], self._wy0[:, None], self._wy1[:, None])
        return _mixed(along_y[:, self._x0], along_y[:, self._x1], self._wx0, self._wx1)

    def _at(self, scores: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """The same arithmetic at single voxels."""
        flat, width = scores.reshape(len(scores), -1), scores.shape[-1]
        top, bottom, left, right = self._y0[y] * width, self._y1[y] * width, self._x0[x], self._x1[x]
        at_left = _mixed(flat[:, top + left], flat[:, bottom + left], self._wy0[y], self._wy1[y])
        at_right = _mixed(flat[:, top + right], flat[:, bottom + right], self._wy0[y], self._wy1[y])
        return _mixed(at_left, at_right, self._wx0[x], self._wx1[x])


def largest(scores: Tensor) -> Tensor:
    """The class with the largest score along axis 0, the lowest of equals; uint8, or int32 past 256 classes."""
    best = scores[0].clone()
    labels = torch.zeros(best.shape, dtype=_dtype(len(scores)), device=scores.device)
    for index in range(1, len(scores)):
        labels[scores[index] > best] = index
        torch.maximum(best, scores[index], out=best)
    return labels


def _settled(lower: Tensor, upper: Tensor) -> Tensor:
    """Whether a voxel, its next ones along y and x, and the same ones of the row above all have one largest class."""
    same = lower == upper
    for axis in (0, 1):
        size = lower.shape[axis]
        both = same.narrow(axis, 0, size - 1) & same.narrow(axis, 1, size - 1)
        both &= lower.narrow(axis, 0, size - 1) == lower.narrow(axis, 1, size - 1)
        same = torch.cat([both, same.narrow(axis, size - 1, 1)], dim=axis)
    return same


def _mixed(first: Tensor, second: Tensor, first_weight: Tensor | float, second_weight: Tensor | float) -> Tensor:
    return first.mul(first_weight).add_(second.mul(second_weight))


def _dtype(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32


def _tensors(axis: Neighbours, device: torch.device) -> tuple[Tensor, ...]:
    arrays = (axis.lower, axis.upper, axis.lower_weight, axis.upper_weight)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)
