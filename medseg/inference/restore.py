"""Rows of scores on the prepared grid become Labels on the file's own grid.

Knows nothing of networks. Exactly what resampling every score to the crop box and deciding there gives (nnU-Net's
export: linear, slice by slice where one axis is much coarser), but row by row, so that memory grows with the classes
times one row. Where all neighbours of a voxel have the same largest class, that class also has the largest
interpolated score, because the weights are not negative; only the other voxels are interpolated for all classes. The
same holds for a region that all neighbours have, or all lack; regions are decided one by one.
Scores in half precision are interpolated in float32 and rounded to half again, as nnU-Net's are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.arrays import Labels, label_dtype
from medseg.images.resample import resize_matrix, separate_axis
from medseg.inference.decision import Decision, decide
from medseg.inference.slab import Rows
from medseg.preprocessing.grid import Grid

_Kept = TypeVar("_Kept")
_GATHERED_AT_ONCE = 1 << 18
"""Scores of scattered voxels that are gathered together: few enough for a processor's cache."""
_WORTH_GATHERING = 0.25
"""Share of a row's voxels above which the whole row is interpolated: reading scattered voxels costs more each."""


def restore_labels(rows: Iterable[Rows], grid: Grid, decision: Decision) -> Labels:
    """Label indices ``(Z, Y, X)`` on the file's own grid and axes; outside the crop box 0.

    ``rows`` hold the scores of the prepared image in ascending order, each row once.
    """
    result = np.zeros(grid.file_shape, dtype=label_dtype(decision.largest_index))
    cropped = crop_view(result, grid)
    as_it_is = grid.prepared_shape == grid.cropped_shape
    finished = _as_they_are(rows, decision) if as_it_is else _resampled(rows, grid, decision)
    for index, labels in finished:
        cropped[index] = labels
    return result


def crop_view(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """The crop box of an array ``(Z, Y, X)`` on the file's grid, in network axes; a view, so it can be written to."""
    box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    return grid.orient(array)[box]


def _as_they_are(rows: Iterable[Rows], decision: Decision) -> Iterator[tuple[int, NDArray[np.integer]]]:
    for part in rows:
        labels = decide(part.scores, decision).cpu().numpy()
        for offset, row in enumerate(labels):
            yield part.start + offset, row


def restore_scores(rows: Iterable[Rows], grid: Grid) -> Iterator[Tensor]:
    """All scores of each row of the crop box, ``(K, Y, X)`` float32 in network axes, in ascending order.

    Interpolated as ``restore_labels`` does. Configurations of one Plan have one crop box: their rows can be averaged.
    """
    if grid.prepared_shape == grid.cropped_shape:
        for part in rows:
            yield from (part.scores[:, row].float() for row in range(part.scores.shape[1]))
        return
    z, y, x = _axes(grid)
    sampler: _Sampler | None = None
    for _, lower, upper, weights in _between(rows, z, lambda scores: scores):
        sampler = sampler or _Sampler(y, x, lower.device)
        yield torch.stack([sampler.everywhere(one) for one in _Between(lower, upper, *weights).everywhere()])


def _resampled(rows: Iterable[Rows], grid: Grid, decision: Decision) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """The crop's rows in ascending order, each as soon as the prepared rows on both sides of it are there."""
    z, y, x = _axes(grid)
    plane: _Plane | None = None
    for index, lower, upper, weights in _between(rows, z, partial(_Row.of, decision=decision)):
        plane = plane or _Plane(decision, _Sampler(y, x, lower.questions[0].device))
        yield index, plane.labels(lower, upper, *weights).cpu().numpy()


def _axes(grid: Grid) -> tuple[Neighbours, Neighbours, Neighbours]:
    separate = separate_axis(grid.prepared_spacing, grid.cropped_spacing)
    z, y, x = (
        neighbours(n, size, order=0 if axis == separate else 1)
        for axis, (n, size) in enumerate(zip(grid.prepared_shape, grid.cropped_shape, strict=True))
    )
    return z, y, x


def _between(
    rows: Iterable[Rows], z: Neighbours, keep: Callable[[Tensor], _Kept]
) -> Iterator[tuple[int, _Kept, _Kept, tuple[float, float]]]:
    """For each row of the crop its place, what is kept of the prepared rows below and above it, and their weights."""
    waiting = 0
    before: _Kept | None = None
    for part in rows:
        end = part.start + part.scores.shape[1]
        known = {} if before is None else {part.start - 1: before}
        while waiting < len(z.lower) and z.upper[waiting] < end:
            for index in (int(z.lower[waiting]), int(z.upper[waiting])):
                if index not in known:
                    known[index] = keep(part.scores[:, index - part.start])
            yield waiting, known[int(z.lower[waiting])], known[int(z.upper[waiting])], z.weights(waiting)
            waiting += 1
            known = {index: row for index, row in known.items() if index >= z.lower[min(waiting, len(z.lower) - 1)]}
        before = keep(part.scores[:, -1].clone())  # the part is a view that the next one overwrites


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
    """One prepared row: its scores, apart by what is decided on together, and what is decided on its own grid."""

    questions: tuple[Tensor, ...]
    answers: tuple[Tensor, ...]

    @classmethod
    def of(cls, scores: Tensor, decision: Decision) -> _Row:
        questions = decision.questions(scores)
        return cls(questions, tuple(decision.answer(question) for question in questions))


class _Sampler:
    """Linear interpolation within a row, (Y, X) of the prepared grid to (Y, X) of the crop."""

    def __init__(self, y: Neighbours, x: Neighbours, device: torch.device) -> None:
        self.y0, self._y1, self._wy0, self._wy1 = _tensors(y, device)
        self.x0, self._x1, self._wx0, self._wx1 = _tensors(x, device)

    def everywhere(self, scores: Tensor) -> Tensor:
        """One class's scores on the whole row."""
        along_y = _mixed(scores[self.y0], scores[self._y1], self._wy0[:, None], self._wy1[:, None])
        return _mixed(along_y[:, self.x0], along_y[:, self._x1], self._wx0, self._wx1)

    def at(self, between: _Between, y: Tensor, x: Tensor) -> Tensor:
        """The same arithmetic at single voxels, for all classes: ``(K, N)``."""
        width = between.lower.shape[-1]
        top, bottom, left, right = self.y0[y] * width, self._y1[y] * width, self.x0[x], self._x1[x]
        wy0, wy1 = self._wy0[y], self._wy1[y]
        at_left = _mixed(between.at(top + left), between.at(bottom + left), wy0, wy1)
        at_right = _mixed(between.at(top + right), between.at(bottom + right), wy0, wy1)
        return _mixed(at_left, at_right, self._wx0[x], self._wx1[x])


@dataclass(frozen=True)
class _Between:
    """Scores ``(K, Y, X)`` between two prepared rows, mixed where they are asked for."""

    lower: Tensor
    upper: Tensor
    lower_weight: float
    upper_weight: float

    def everywhere(self) -> Iterator[Tensor]:
        """Each class's row ``(Y, X)``."""
        for lower, upper in zip(self.lower, self.upper, strict=True):
            same = self.upper is self.lower
            yield lower.float() if same else _mixed(lower.float(), upper.float(), self.lower_weight, self.upper_weight)

    def at(self, places: Tensor) -> Tensor:
        """All classes at places of the flattened row, ``(K, N)``."""
        lower = self.lower.flatten(1)[:, places].float()
        if self.upper is self.lower:
            return lower
        return _mixed(lower, self.upper.flatten(1)[:, places].float(), self.lower_weight, self.upper_weight)


@dataclass(frozen=True)
class _Plane:
    """Decisions on a row of the crop from the two prepared rows beside it."""

    decision: Decision
    sampler: _Sampler

    def labels(self, lower: _Row, upper: _Row, lower_weight: float, upper_weight: float) -> Tensor:
        """Label indices on the plane that lies between two prepared rows."""
        return self.decision.labels(
            [self._answer(number, lower, upper, lower_weight, upper_weight) for number in range(len(lower.questions))]
        )

    def _answer(self, number: int, lower: _Row, upper: _Row, lower_weight: float, upper_weight: float) -> Tensor:
        """The answer to one question there."""
        sampler = self.sampler
        settled = _settled(lower.answers[number], upper.answers[number])
        result = lower.answers[number][sampler.y0][:, sampler.x0]
        open_y, open_x = torch.nonzero(~settled[sampler.y0][:, sampler.x0], as_tuple=True)
        if len(open_y) == 0:
            return result
        between = _Between(lower.questions[number], upper.questions[number], lower_weight, upper_weight)
        dtype = between.lower.dtype
        if len(open_y) > _WORTH_GATHERING * result.numel():
            return self.decision.answer(sampler.everywhere(one).to(dtype) for one in between.everywhere())
        at_once = max(1, _GATHERED_AT_ONCE // len(between.lower))
        for y, x in zip(open_y.split(at_once), open_x.split(at_once), strict=True):
            result[y, x] = self.decision.answer(sampler.at(between, y, x).to(dtype))
        return result


def _settled(lower: Tensor, upper: Tensor) -> Tensor:
    """Whether a voxel, its next ones along y and x, and the same ones of the row above all have the same answer."""
    same = lower == upper
    for axis in (0, 1):
        size = lower.shape[axis]
        both = same.narrow(axis, 0, size - 1) & same.narrow(axis, 1, size - 1)
        both &= lower.narrow(axis, 0, size - 1) == lower.narrow(axis, 1, size - 1)
        same = torch.cat([both, same.narrow(axis, size - 1, 1)], dim=axis)
    return same


def _mixed(first: Tensor, second: Tensor, first_weight: Tensor | float, second_weight: Tensor | float) -> Tensor:
    return first.mul(first_weight).add_(second.mul(second_weight))


def _tensors(axis: Neighbours, device: torch.device) -> tuple[Tensor, ...]:
    arrays = (axis.lower, axis.upper, axis.lower_weight, axis.upper_weight)
    return tuple(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays)
