"""What lies over a grey picture: structures filled or outlined, heat maps with their legend, the difference of two.

Knows nothing of files or pages. Every function paints into the picture that it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.cases.labels import LabelTable
from medseg.evaluation.palette import Color, colors_of
from medseg.review.slices import Frame, Picture, Sliceable

BOTH: Color = (0, 158, 115)
ONLY_FIRST: Color = (230, 159, 0)
ONLY_SECOND: Color = (86, 180, 233)
"""Of a difference; told apart with any common colour blindness (Okabe and Ito 2008)."""
HEAT = np.array([(10, 10, 60), (90, 25, 120), (190, 55, 85), (245, 125, 30), (252, 220, 90), (255, 255, 220)])
"""From low to high, growing in brightness, so that it reads in grey as well."""
_THICKNESS = 2
"""Of outlines, in pixels of the picture."""


def colors_by_index(
    table: LabelTable, shown: Collection[str] | None = None, colors: Mapping[str, Color] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """For each label index its colour ``(N, 3)`` and whether it is drawn ``(N,)``.

    ``shown`` names the targets that are on (all, where it is None); of those that hold an index the last one wins.
    """
    palette = np.zeros((len(table.known_values), 3), np.uint8)
    drawn = np.zeros(len(table.known_values), bool)
    for target, default in zip(table.targets, colors_of(table.targets), strict=True):
        if shown is None or target.name in shown:
            palette[list(target.indices)] = (colors or {}).get(target.name, default)
            drawn[list(target.indices)] = True
    return palette, drawn


def paint_labels(
    picture: Picture,
    labels: Sliceable,
    frame: Frame,
    colors: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    opacity: float,
    outline: bool = False,
) -> None:
    """Label indices ``(Z, Y, X)``; an outline lies inside of its structure and is always opaque."""
    palette, drawn = colors
    indices = frame.enlarged(frame.cut(labels))
    indices = np.where(drawn[indices], indices, 0)
    where = _edges(indices) if outline else indices > 0
    _blend(picture, palette[indices], where, 1.0 if outline else opacity)


def paint_heat(picture: Picture, values: Sliceable, frame: Frame, low: float, high: float, opacity: float) -> None:
    """A map ``(Z, Y, X)``; what lies below ``low`` stays grey, and brightness of the cover grows with the value."""
    shares = _shares(frame.smoothed(frame.cut(values)), low, high)
    color = heat_colors(shares)
    cover = (opacity * np.minimum(2 * shares, 1))[:, :, None]
    picture[:] = (picture * (1 - cover) + color * cover).astype(np.uint8)


def paint_difference(
    picture: Picture, first: NDArray[np.bool_], second: NDArray[np.bool_], frame: Frame, opacity: float
) -> None:
    """Where two cuts of masks ``(rows, columns)`` agree, and where only one of them is."""
    one, other = frame.enlarged(first), frame.enlarged(second)
    color = np.zeros_like(picture)
    color[one & other], color[one & ~other], color[other & ~one] = BOTH, ONLY_FIRST, ONLY_SECOND
    _blend(picture, color, one | other, opacity)


def heat_colors(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours ``(..., 3)`` for shares from 0 to 1."""
    place = np.clip(shares, 0, 1) * (len(HEAT) - 1)
    lower = np.minimum(place.astype(int), len(HEAT) - 2)
    part = (place - lower)[..., None]
    return (HEAT[lower] * (1 - part) + HEAT[lower + 1] * part).astype(np.uint8)


def heat_legend(width: int = 256, height: int = 12) -> Picture:
    """The colours from low (left) to high (right)."""
    return np.repeat(heat_colors(np.linspace(0, 1, width))[None], height, axis=0)


def heat_range(values: NDArray[np.floating]) -> tuple[float, float]:
    """From 0 to what hardly any voxel exceeds; an almost empty map goes up to its largest value."""
    inside = values[values > 0]
    top = float(np.percentile(inside, 99.5)) if inside.size else 0.0
    return 0.0, top if top > 0 else 1.0


def _shares(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.floating]:
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


def _edges(indices: NDArray[np.integer]) -> NDArray[np.bool_]:
    largest = ndimage.maximum_filter(indices, size=2 * _THICKNESS - 1, mode="constant")
    smallest = ndimage.minimum_filter(indices, size=2 * _THICKNESS - 1, mode="constant")
    return (indices > 0) & ((largest != indices) | (smallest != indices))


def _blend(picture: Picture, color: NDArray[np.uint8], where: NDArray[np.bool_], opacity: float) -> None:
    mixed = picture[where] * (1 - opacity) + color[where] * opacity
    picture[where] = mixed.astype(np.uint8)
