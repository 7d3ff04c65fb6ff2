"""A picture of maps over an image: what is outlined on top, then each map in its colours, in up to three orientations.

Knows nothing of what a map says (uncertainty, evidence) nor of files beyond writing a PNG whole. A map is drawn from 0
to its largest value, which stands beside it; one without any value above 0 is called so and not stretched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medseg.arrays import Affine, Labels, Spacing
from medseg.evaluation.palette import Color, fractions
from medseg.evaluation.pictures import INK, draw_outline, mark_sides, plain, save
from medseg.evaluation.views import View, choose_views, grey_range, turned

_DENSEST = 0.8
"""Opacity of the largest value; fainter ones let more of the image through, so that no border stands where none is."""
_PANEL_INCHES = 3.0
_MARGIN_INCHES = 1.5
"""For the scale beside a row and what is written above it."""


@dataclass(frozen=True)
class HeatMap:
    """One row of the picture."""

    name: str
    values: Float32[np.ndarray, "Z Y X"]
    """0 or more."""
    unit: str
    blank: str = "nothing above 0"
    """What is said instead of a map that is 0 everywhere."""


@dataclass(frozen=True)
class Outlined:
    """Whose borders are drawn into every panel."""

    name: str
    numbers: Labels
    """(Z, Y, X), 0 for nothing."""
    colors: Sequence[Color]
    """Of number 1 first."""


def draw_heat(
    path: Path,
    image: NDArray[np.floating],
    outlined: Outlined,
    maps: Sequence[HeatMap],
    spacing: Spacing,
    title: str,
    affine: Affine | None = None,
) -> None:
    """Write a PNG; all arrays are (Z, Y, X) on one grid with ``spacing`` mm (z, y, x).

    With ``affine`` the picture is turned to radiological habit and its sides are marked. Raises MedsegError when the
    file can't be written.
    """
    image, marked = turned(image, affine), turned(outlined.numbers, affine)
    views = choose_views(marked, spacing, affine)
    grey = grey_range(image, marked)
    figure, axes = _page(views, 1 + len(maps), title)
    for column, view in enumerate(views):
        for ax in axes[:, column]:
            _draw_base(ax, view, image, grey)
        axes[0][column].set_title(f"{view.name}: {plain(outlined.name)}", color=INK, fontsize=10)
    for row, one in enumerate(maps, start=1):
        _draw_map(figure, list(axes[row]), views, one, turned(one.values, affine))
    for column, view in enumerate(views):
        for ax in axes[:, column]:
            for number, color in enumerate(outlined.colors, start=1):
                draw_outline(ax, view, marked == number, fractions(color), 1.1)
            mark_sides(ax, view)
    save(path, figure)


def _page(views: Sequence[View], rows: int, title: str) -> tuple[Figure, Any]:
    """One black panel for each view and row; a column is as wide as its view, and all have one scale in mm."""
    widths, heights = [view.size_mm[1] for view in views], [view.size_mm[0] for view in views]
    inches = _PANEL_INCHES / max(*widths, *heights)
    width = inches * sum(widths) + _MARGIN_INCHES
    height = rows * (inches * max(heights) + 0.35) + 0.7
    figure = Figure(figsize=(max(width, 5.5), height), layout="constrained")
    figure.suptitle(plain(title), color=INK, fontsize=11)
    return figure, figure.subplots(rows, len(views), squeeze=False, width_ratios=widths)


def _draw_base(ax: Axes, view: View, image: NDArray[np.floating], grey: tuple[float, float]) -> None:
    height, width = view.size_mm
    ax.imshow(view.cut(image), cmap="gray", vmin=grey[0], vmax=grey[1], extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _draw_map(
    figure: Figure, axes: Sequence[Axes], views: Sequence[View], one: HeatMap, values: NDArray[np.float32]
) -> None:
    largest = float(values.max())
    axes[0].set_title(one.name if largest > 0 else f"{one.name}: {one.blank}", color=INK, fontsize=10, loc="left")
    if largest <= 0:
        return
    shown = None
    for ax, view in zip(axes, views, strict=True):
        height, width = view.size_mm
        heat = view.cut(values)
        opacity = _DENSEST * np.sqrt(np.clip(heat / largest, 0, 1))
        shown = ax.imshow(heat, cmap="inferno", vmin=0, vmax=largest, alpha=opacity, extent=(0, width, height, 0))
    if shown is not None:
        scale = figure.colorbar(shown, ax=list(axes), shrink=0.85, pad=0.015)
        scale.set_label(one.unit, color=INK, fontsize=9)
        scale.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
