"""What a network consists of, layer by layer, as far as its size, its work and its memory depend on it.

Every network describes itself to the planner as a list of these (``medseg.planning.architectures``); parameters, FLOPs
and kept feature maps are sums over the list (``medseg.planning.memory``). Nothing here imports torch; tests hold each
description against the network that is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from medseg.arrays import Triple
from medseg.planning.plan import NetworkPlan


@lru_cache(maxsize=10_000)
def _sizes(step: Triple, window: Triple | None, patch: Triple) -> Triple:
    # The planner asks for the same grids over and over.
    z, y, x = (math.ceil(n / s) for n, s in zip(patch, step, strict=True))
    if window is not None:
        z, y, x = (math.ceil(n / min(n, w)) * min(n, w) for n, w in zip((z, y, x), window, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Grid:
    """The voxels (or tokens) of a feature map, relative to the patch."""

    step: Triple = (1, 1, 1)
    """Voxels of the patch from one of the map to the next."""
    window: Triple | None = None
    """The map is cut into windows of this size (or its own size, where that is smaller), and padded to fill them."""

    def sizes(self, patch: Triple) -> Triple:
        """(z, y, x) of the map for a patch."""
        return _sizes(self.step, self.window, patch)

    def voxels(self, patch: Triple) -> int:
        """Voxels of the map for a patch."""
        return math.prod(self.sizes(patch))

    def coarser(self, step: Triple) -> Grid:
        """The grid after striding on."""
        z, y, x = (old * new for old, new in zip(self.step, step, strict=True))
        return Grid((z, y, x))


class Part(Protocol):
    """Anything that a network is made of; all counts are for one patch (z, y, x) of one sample."""

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        ...

    @property
    def head(self) -> bool:
        """Whether it gives logits."""
        ...

    def multiplications(self, patch: Triple) -> int:
        """Multiplications, each with its addition, of a forward pass."""
        ...

    def elements(self, patch: Triple) -> int:
        """What nnU-Net's proxy for memory counts: the numbers in the output of each convolution."""
        ...

    def saved(self, patch: Triple) -> int:
        """Numbers that training keeps from the forward to the backward pass."""
        ...


@dataclass(frozen=True)
class Layer:
    """A convolution or linear map with what follows it (norm, activation), or a map that is only copied or pooled."""

    grid: Grid
    """Of its output."""
    inputs: int
    """Channels that each output channel is a sum over: of a depthwise convolution 1."""
    outputs: int
    taps: int = 1
    """Multiplications per output voxel and pair of channels."""
    weights: int = 1
    """Weights per pair of channels; in a transposed convolution each serves another voxel."""
    vectors: int = 1
    """Parameters per output channel beside the weights: a bias, and two of a norm."""
    kept: int = 1
    """Maps of the output's size that the backward pass needs: 2 where a norm stands between convolution and activation
    in place (the norm's input, and the activation's output, which the next layer reads)."""
    counted: bool = True
    """Whether nnU-Net's proxy counts the output once."""
    head: bool = False
    """Whether it gives logits."""
    pooled: bool = False
    """Whether its output is one number per channel."""
    worked: Grid | None = None
    """Where its taps are multiplied, if not at the output: of a transposed convolution with overlapping taps its
    input."""
    table: int = 0
    """Trainable numbers beside these, such as positions."""

    @property
    def parameters(self) -> int:
        return (self.weights * self.inputs + self.vectors) * self.outputs + self.table

    def multiplications(self, patch: Triple) -> int:
        voxels = self._voxels(patch) if self.worked is None else self.worked.voxels(patch)
        return self.taps * self.inputs * self.outputs * voxels

    def elements(self, patch: Triple) -> int:
        return self.outputs * self._voxels(patch) if self.counted else 0

    def saved(self, patch: Triple) -> int:
        return self.kept * self.outputs * self._voxels(patch)

    def _voxels(self, patch: Triple) -> int:
        return 1 if self.pooled else self.grid.voxels(patch)


def kept_map(grid: Grid, channels: int, kept: int = 1) -> Layer:
    """A map that costs memory only, such as a skip connection's copy in a concatenation."""
    return Layer(grid, 0, channels, taps=0, weights=0, vectors=0, kept=kept, counted=False)


@dataclass(frozen=True)
class Attention:
    """The two products of attention, tokens x keys, without the linear maps around them (those are Layers)."""

    grid: Grid
    """Of the tokens. Where it has windows each token looks at its own window."""
    channels: int
    heads: int
    keys: Grid | None = None
    """What each token looks at instead; None: all tokens of its own grid, or window."""
    table: int = 0
    """Trainable numbers of a bias by position."""
    kept: int = 0
    """Maps of the tokens that the backward pass needs."""
    scores_kept: int = 0
    """Matrices tokens x keys x heads that the backward pass needs: none where the products are fused."""
    head: bool = False

    @property
    def parameters(self) -> int:
        return self.table

    def multiplications(self, patch: Triple) -> int:
        return 2 * self._pairs(patch) * self.channels

    def elements(self, patch: Triple) -> int:
        return self.scores_kept * self.heads * self._pairs(patch)

    def saved(self, patch: Triple) -> int:
        return self.kept * self.channels * self.grid.voxels(patch) + self.elements(patch)

    def _pairs(self, patch: Triple) -> int:
        keys = self.keys or self.grid
        seen = keys.sizes(patch)
        if self.keys is None and self.grid.window is not None:
            seen = tuple(min(n, w) for n, w in zip(seen, self.grid.window, strict=True))
        return self.grid.voxels(patch) * math.prod(seen)


Parts = Iterable[Part]


def stage_grids(network: NetworkPlan) -> tuple[Grid, ...]:
    """The grid of each stage of the encoder, finest first."""
    grid, found = Grid(), []
    for stride in network.strides:
        grid = grid.coarser(stride)
        found.append(grid)
    return tuple(found)
