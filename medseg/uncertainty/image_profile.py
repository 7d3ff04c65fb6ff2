"""What can be measured of a prepared image without a network: how large it is, its intensities, what it looks like.

Knows nothing of other Cases. Everything is measured on what the network gets to see (turned, cropped, normalised,
resampled), so that a Case is described alike whatever its file; only spacing and extent are those of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import adaptive_avg_pool3d

from medseg.arrays import Image
from medseg.preprocessing.grid import Grid

QUANTILES = (1, 5, 25, 50, 75, 95, 99)
"""Percent; of the normalised intensities."""
SIZE = 8
"""Voxels of a thumbnail along each axis."""
_SLICES = 64
"""At most so many are looked at for intensities."""
_FLIPS = [flips for flips in product((False, True), repeat=3) if any(flips)]


@dataclass(frozen=True)
class ImageProfile:
    """One image."""

    measured: dict[str, float]
    """By a name that a reader understands; those in mm and the ratios are above 0."""
    thumbnail: Float[np.ndarray, "C 8 8 8"]
    """Mean 0 and length 1 in each channel, or 0 for a channel without any contrast."""


def profile_of(prepared: Image, grid: Grid, channels: Sequence[str]) -> ImageProfile:
    """Measure a prepared image ``(C, Z, Y, X)``; ``channels`` are their names."""
    measured = {
        f"spacing along {axis}, mm": float(step) for axis, step in zip("zyx", grid.cropped_spacing, strict=True)
    }
    sizes = zip("zyx", grid.cropped_shape, grid.cropped_spacing, strict=True)
    measured |= {f"extent along {axis}, mm": float(size * step) for axis, size, step in sizes}
    every = max(prepared.shape[1] // _SLICES, 1)
    for name, values in zip(channels, prepared[:, ::every], strict=True):
        levels = np.percentile(values, QUANTILES)
        for percent, level in zip(QUANTILES, levels, strict=True):
            measured[f"{percent} % level of {name}, normalised"] = float(level)
        measured[f"roughness of {name}, ratio"] = _roughness(values, float(levels[4] - levels[2]))
    return ImageProfile(measured, _thumbnail(prepared))


def likeness(thumbnail: Float[np.ndarray, "C 8 8 8"], average: Float[np.ndarray, "C 8 8 8"]) -> dict[str, float]:
    """How much an image looks like the average one, and by how much more it would if it were flipped."""
    as_it_is = _correlation(thumbnail, average)
    flipped = max(_correlation(_flip(thumbnail, flips), average) for flips in _FLIPS)
    return {"likeness to the average image": as_it_is, "likeness won by flipping": flipped - as_it_is}


def average_of(thumbnails: Sequence[Float[np.ndarray, "C 8 8 8"]]) -> Float[np.ndarray, "C 8 8 8"]:
    """Of several images, again of mean 0 and length 1."""
    return _normalised(np.mean(thumbnails, axis=0))


def _roughness(values: Float[np.ndarray, "Z Y X"], contrast: float) -> float:
    """Of neighbouring voxels in a slice: the median difference over the middle half's width, never quite 0."""
    steps = [np.abs(np.diff(values, axis=axis)) for axis in (1, 2) if values.shape[axis] > 1]
    step = float(np.median(np.concatenate([one.ravel() for one in steps]))) if steps else 0.0
    return (step + 1e-3) / (contrast + 1e-2)


def _thumbnail(prepared: Image) -> Float[np.ndarray, "C 8 8 8"]:
    pooled = adaptive_avg_pool3d(torch.from_numpy(np.ascontiguousarray(prepared))[None], SIZE)[0]
    return _normalised(pooled.double().numpy())


def _normalised(thumbnail: Float[np.ndarray, "C 8 8 8"]) -> Float[np.ndarray, "C 8 8 8"]:
    axes = (1, 2, 3)
    centred = thumbnail - thumbnail.mean(axis=axes, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=axes, keepdims=True))
    return np.where(length > 1e-9, centred / np.maximum(length, 1e-9), 0.0)


def _correlation(first: Float[np.ndarray, "C 8 8 8"], second: Float[np.ndarray, "C 8 8 8"]) -> float:
    return float((first * second).sum(axis=(1, 2, 3)).mean())


def _flip(thumbnail: Float[np.ndarray, "C 8 8 8"], flips: Sequence[bool]) -> Float[np.ndarray, "C 8 8 8"]:
    return thumbnail[(slice(None), *(slice(None, None, -1) if flipped else slice(None) for flipped in flips))]
