"""The accumulator of a sliding window: scores of one patch's depth of rows, handed out as soon as they are finished.

Knows nothing of networks. ``Slab`` adds up in float32 with weights that sum to one; ``NnunetSlab`` adds up as nnU-Net
does, logits and Gaussian in half precision, so that even its rounding is met (nnU-Net v2,
``predict_sliding_window_return_logits``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medseg.arrays import Triple
from medseg.inference.storage import Storage
from medseg.inference.tiles import AxisTiles, gaussian

_PEAK = 10.0
"""Of nnU-Net's Gaussian; in half precision more of its tails survive than with a peak of 1."""


@dataclass(frozen=True)
class Rows:
    """Finished scores of the rows ``start, start + 1, ...`` of axis 0, ``(K, N, Y, X)``; half precision stays so.

    A view of the accumulator: it is valid until the next Rows are asked for, so copy what you keep.
    """

    start: int
    scores: Float[Tensor, "K N Y X"]


class Slab:
    """Accumulator for one patch's depth of rows; row r of the padded image lies at ``r % patch``."""

    _dtype = torch.float32

    def __init__(self, channels: int, axes: tuple[AxisTiles, AxisTiles, AxisTiles], storage: Storage) -> None:
        self._axes, self._next, self._storage = axes, 0, storage
        _, y, x = axes
        self._rows_at_once = max(1, storage.at_once // (channels * y.padded * x.padded * self._dtype.itemsize))
        self._scores = self._zeros(channels)
        self._device = self._scores.device
        self._weights = [torch.from_numpy(axis.weights).to(self._device) for axis in axes]
        self._inside = (..., slice(y.before, y.before + y.size), slice(x.before, x.before + x.size))

    def _zeros(self, channels: int) -> Tensor:
        """Zeros ``(K, Z, Y, X)`` in which each row lies in one piece, so that finished rows are read in order."""
        z, y, x = self._axes
        return self._storage.zeros((z.patch, channels, y.padded, x.padded), self._dtype).transpose(0, 1)

    def start_of(self, tile: Triple) -> int:
        """The first row of a tile, given by its place in the grid of tiles."""
        return self._axes[0].starts[tile[0]]

    def add(self, tile: Triple, scores: Tensor) -> None:
        """Add one tile's scores, weighted; all rows before the tile have been finished."""
        i, j, k = tile
        scores = scores.to(self._device)
        weight = self._weights[0][i, :, None, None] * self._weights[1][j, :, None] * self._weights[2][k]
        for here, there in self._places(tile):
            self._scores[there].addcmul_(scores[:, here], weight[here])
            self._storage.settle()

    def finish(self, end: int | None = None) -> Iterator[Rows]:
        """Hand out the rows before ``end`` (or all) that lie inside the image, and make room for later ones."""
        z = self._axes[0]
        end = z.padded if end is None else end
        for first, rows in self._pieces(self._next, end):
            lower, upper = max(first, z.before), min(first + rows.stop - rows.start, z.before + z.size)
            if lower < upper:
                inside = slice(rows.start + lower - first, rows.start + upper - first)
                yield from self._handed_out(lower - z.before, inside)
            self._clear(rows)
            self._storage.settle()
        self._next = end

    def _handed_out(self, start: int, rows: slice) -> Iterator[Rows]:
        """The finished rows at this place of the ring; ``start`` is the first one's number."""
        yield Rows(start, self._scores[:, rows][self._inside])

    def _clear(self, rows: slice) -> None:
        self._scores[:, rows] = 0

    def _places(self, tile: Triple) -> Iterator[tuple[slice, tuple[slice, slice, slice, slice]]]:
        """Rows of a tile, and where they lie in the accumulator; in pieces as ``_pieces`` says."""
        z, y, x = (axis.starts[index] for axis, index in zip(self._axes, tile, strict=True))
        depth, height, width = (axis.patch for axis in self._axes)
        for first, rows in self._pieces(z, z + depth):
            here = slice(first - z, first - z + rows.stop - rows.start)
            yield here, (slice(None), rows, slice(y, y + height), slice(x, x + width))

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, slice]]:
        """Rows ``start`` to ``end`` as (first row, place in the ring), in pieces: at its end, and as may be touched."""
        patch = self._axes[0].patch
        while start < end:
            place = start % patch
            length = min(end - start, patch - place, self._rows_at_once)
            yield start, slice(place, place + length)
            start += length


class NnunetSlab(Slab):
    """The same with nnU-Net's arithmetic: every network by itself, a count beside the scores, all in half precision.

    The scores of a tile are the networks' logits one after the other, ``(networks * classes, Z, Y, X)``.
    """

    _dtype = torch.half

    def __init__(
        self, networks: int, classes: int, axes: tuple[AxisTiles, AxisTiles, AxisTiles], storage: Storage
    ) -> None:
        super().__init__(networks * classes, axes, storage)
        self._count = self._zeros(1)
        self._networks, self._weight = networks, half_gaussian(axes).to(self._device)

    def add(self, tile: Triple, scores: Tensor) -> None:
        """Add one tile's logits, weighted; all rows before the tile have been finished."""
        scores = scores.to(self._device)
        for here, there in self._places(tile):
            mine = self._scores[there]
            for place, row in enumerate(range(here.start, here.stop)):  # all at once the product is a second tile
                mine[:, place] += scores[:, row] * self._weight[row]
            self._count[there] += self._weight[here]
            self._storage.settle()

    def _handed_out(self, start: int, rows: slice) -> Iterator[Rows]:
        for number, row in enumerate(range(rows.start, rows.stop)):
            first, *others = (self._scores[:, row] / self._count[:, row]).chunk(self._networks)
            for other in others:
                first += other
            average = first / self._networks if others else first
            yield Rows(start + number, average[:, None][self._inside])

    def _clear(self, rows: slice) -> None:
        super()._clear(rows)
        self._count[:, rows] = 0


def half_gaussian(axes: tuple[AxisTiles, AxisTiles, AxisTiles]) -> Float[Tensor, "Z Y X"]:
    """nnU-Net's weight of a tile: a peak of 10, half precision, and where that is zero its smallest positive value."""
    z, y, x = (torch.from_numpy(gaussian(axis.patch)) for axis in axes)
    weight = (_PEAK * z[:, None, None] * y[:, None] * x).half()
    weight[weight == 0] = weight[weight > 0].min()
    return weight
