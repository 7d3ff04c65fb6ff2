"""Where the tiles of a sliding window stand, and how much each voxel of them counts.

Knows nothing of networks or scores. Positions and Gaussian weights are nnU-Net's (Isensee et al. 2021, sliding window
inference). The tiles form a regular grid, so their weights are a product of three 1-D weights that already sum to one
over the tiles on each voxel: no count volume is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from medseg.arrays import Triple


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis of an image that is padded to at least one patch."""

    size: int
    """Voxels of the image."""
    patch: int
    before: int
    """Zeros before the image; as many, or one more, stand behind it."""
    starts: tuple[int, ...]
    """First voxel of each tile in the padded image."""
    weights: Float32[np.ndarray, "N P"]
    """Weight of each voxel of each tile; on every voxel they sum to 1 over the tiles."""

    @property
    def padded(self) -> int:
        return max(self.size, self.patch)


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """First voxels of ``ceil((size - patch) / (step * patch)) + 1`` evenly spaced tiles; ``size >= patch``.

    A patch of one voxel (the slices of a 2D network) gives every voxel once.
    """
    if patch == 1:
        return tuple(range(size))
    count = int(np.ceil((size - patch) / (step * patch))) + 1
    distance = (size - patch) / max(count - 1, 1)
    return tuple(sorted({int(np.round(distance * index)) for index in range(count)}))


def gaussian(patch: int) -> Float64[np.ndarray, " P"]:
    """Gaussian with its peak of 1 at ``patch // 2`` and a standard deviation of an eighth of the patch.

    It never falls below exp(-8), so nnU-Net's rule for zeros (they appear in half precision only) has nothing to do.
    """
    distance = np.arange(patch) - patch // 2
    return np.exp(-0.5 * (distance / (patch / 8)) ** 2)


def tile_axis(size: int, patch: int, step: float) -> AxisTiles:
    """Lay tiles over one axis; ``step`` is a share of the patch, above 0 and at most 1."""
    padded = max(size, patch)
    starts = tile_starts(padded, patch, step)
    weight, total = gaussian(patch), np.zeros(padded)
    for start in starts:
        total[start : start + patch] += weight
    normalised = np.stack([weight / total[start : start + patch] for start in starts])
    return AxisTiles(size, patch, (padded - size) // 2, starts, normalised.astype(np.float32))


def tile_grid(shape: Triple, patch: Triple, step: float) -> tuple[AxisTiles, AxisTiles, AxisTiles]:
    """Lay tiles over an image of ``shape`` (z, y, x)."""
    z, y, x = (tile_axis(size, length, step) for size, length in zip(shape, patch, strict=True))
    return z, y, x
