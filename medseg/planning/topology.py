"""How deep a U-Net goes, where it halves which axis, and which kernels it uses: from spacing and patch size alone.

Knows nothing of memory or time. Rule: nnU-Net v2's (Isensee et al. 2021): the finest axes are halved first until the
voxels are about isotropic, and no axis is halved below an edge of four voxels. One rule serves two and three axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_EDGE = 4
"""No axis of the coarsest feature map is made shorter than this by halving."""
_SIMILAR = 2
"""Axes whose spacing is less than this many times the finest are treated as equally fine."""


@dataclass(frozen=True)
class Topology:
    """Strides and kernels per stage, finest first, for two or three axes; and the patch padded to fit them."""

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...]

    @property
    def divisor(self) -> tuple[int, ...]:
        """The patch is a multiple of this on each axis."""
        return tuple(math.prod(steps) for steps in zip(*self.strides, strict=True))


def find_topology(spacing: Sequence[float], size: Sequence[float]) -> Topology:
    """The network for a patch of about ``size`` voxels (two or three axes) at ``spacing`` mm.

    The patch is padded up to a multiple of the network's divisor. ``size`` may be fractional, as medians are.
    """
    axes = range(len(spacing))
    now, voxels = list(spacing), list(size)
    kernel = [1 for _ in axes]
    strides, kernels = [tuple(kernel)], []
    while halved := _axes_to_halve(now, voxels):
        kernel = [3 if kernel[a] == 3 or now[a] / min(now) < _SIMILAR else 1 for a in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in halved else 1 for a in axes))
        for a in halved:
            now[a] *= 2
            voxels[a] = math.ceil(voxels[a] / 2)
    kernels.append(tuple(3 for _ in axes))
    divisor = [math.prod(steps) for steps in zip(*strides, strict=True)]
    patch = tuple(math.ceil(n / d) * d for n, d in zip(size, divisor, strict=True))
    return Topology(tuple(strides), tuple(kernels), patch)


def _axes_to_halve(spacing: Sequence[float], voxels: Sequence[float]) -> list[int]:
    long_enough = [a for a, n in enumerate(voxels) if n >= 2 * SMALLEST_EDGE]
    if not long_enough:
        return []
    finest = min(spacing[a] for a in long_enough)
    halved = [a for a in long_enough if spacing[a] / finest < _SIMILAR]
    if len(halved) == 1 and voxels[halved[0]] < 3 * SMALLEST_EDGE:
        return []
    return halved
