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

    def __init__(self, channels: int, axes: tuple[AxisTiles, AxisTiles, AxisTiles], device: torch.device) -> None:
        self._axes, self._next = axes, 0
        _, y, x = axes
        self._scores = self._zeros(channels, device)
        self._weights = [torch.from_numpy(axis.weights).to(device) for axis in axes]
        self._inside = (..., slice(y.before, y.before + y.size), slice(x.before, x.before + x.size))

    def _zeros(self, channels: int, device: torch.device) -> Tensor:
        z, y, x = self._axes
        return torch.zeros((channels, z.patch, y.padded, x.padded), dtype=self._dtype, device=device)

    def start_of(self, tile: Triple) -> int:
        """The first row of a tile, given by its place in the grid of tiles."""
        return self._axes[0].starts[tile[0]]

    def add(self, tile: Triple, scores: Tensor) -> None:
        """Add one tile's scores, weighted; all rows before the tile have been finished."""
        i, j, k = tile
        weight = self._weights[0][i, :, None, None] * self._weights[1][j, :, None] * self._weights[2][k]
        for here, there in self._places(tile):
            self._scores[there].addcmul_(scores[:, here], weight[here])

    def finish(self, end: int | None = None) -> Iterator[Rows]:
        """Hand out the rows before ``end`` (or all) that lie inside the image, and make room for later ones."""
        z = self._axes[0]
        end = z.padded if end is None else end
        for first, rows in self._pieces(self._next, end):
            lower, upper = max(first, z.before), min(first + rows.stop - rows.start, z.before + z.size)
            if lower < upper:
                inside = slice(rows.start + lower - first, rows.start + upper - first)
                yield Rows(lower - z.before, self._finished(inside)[self._inside])
            self._clear(rows)
        self._next = end

    def _finished(self, rows: slice) -> Tensor:
        return self._scores[:, rows]

    def _clear(self, rows: slice) -> None:
        self._scores[:, rows] = 0

    def _places(self, tile: Triple) -> Iterator[tuple[slice, tuple[slice, slice, slice, slice]]]:
        """Rows of a tile, and where they lie in the accumulator; two pieces where the ring wraps."""
        z, y, x = (axis.starts[index] for axis, index in zip(self._axes, tile, strict=True))
        depth, height, width = (axis.patch for axis in self._axes)
        for first, rows in self._pieces(z, z + depth):
            here = slice(first - z, first - z + rows.stop - rows.start)
            yield here, (slice(None), rows, slice(y, y + height), slice(x, x + width))

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, slice]]:
        """Rows ``start`` to ``end`` as (first row, place in the ring)."""
        patch = self._axes[0].patch
        while start < end:
            place = start % patch
            length = min(end - start, patch - place)
            yield start, slice(place, place + length)
            start += length


class NnunetSlab(Slab):
    """The same with nnU-Net's arithmetic: every network by itself, a count beside the scores, all in half precision.

    The scores of a tile are the networks' logits one after the other, ``(networks * classes, Z, Y, X)``.
    """

    _dtype = torch.half

    def __init__(
        self, networks: int, classes: int, axes: tuple[AxisTiles, AxisTiles, AxisTiles], device: torch.device
    ) -> None:
        super().__init__(networks * classes, axes, device)
        self._count = self._zeros(1, device)
        self._networks, self._weight = networks, half_gaussian(axes).to(device)

    def add(self, tile: Triple, scores: Tensor) -> None:
        """Add one tile's logits, weighted; all rows before the tile have been finished."""
        weighted = scores * self._weight
        for here, there in self._places(tile):
            self._scores[there] += weighted[:, here]
            self._count[there] += self._weight[here]

    def _finished(self, rows: slice) -> Tensor:
        first, *others = (self._scores[:, rows] / self._count[:, rows]).chunk(self._networks)
        for other in others:
            first += other
        return first / self._networks if others else first

    def _clear(self, rows: slice) -> None:
        super()._clear(rows)
        self._count[:, rows] = 0


def half_gaussian(axes: tuple[AxisTiles, AxisTiles, AxisTiles]) -> Float[Tensor, "Z Y X"]:
    """nnU-Net's weight of a tile: a peak of 10, half precision, and where that is zero its smallest positive value."""
    z, y, x = (torch.from_numpy(gaussian(axis.patch)) for axis in axes)
    weight = (_PEAK * z[:, None, None] * y[:, None] * x).half()
    weight[weight == 0] = weight[weight > 0].min()
    return weight
