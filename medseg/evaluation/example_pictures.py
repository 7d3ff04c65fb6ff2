"""A page of small panels: rows of examples, each one slice of a patch with the outlines of its labels.

Knows nothing of what the examples are examples of. All panels share the grey levels of the first, so that a change of
brightness is seen as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medseg.arrays import Labels, Spacing
from medseg.cases.labels import LabelTable
from medseg.evaluation.palette import Color, colors_of, fractions, topmost
from medseg.files import written_whole

_PANEL_INCHES = 1.35
_GAP, _ABOVE, _SIDE = 0.05, 0.24, 0.3
_BLOCKS = 2
_DPI = 110
_INK = "#222222"


@dataclass(frozen=True)
class Row:
    """Examples of one thing."""

    name: str
    images: Sequence[NDArray[np.float32]]
    """(C, Z, Y, X) each."""
    labels: Sequence[Labels]
    """Label indices (Z, Y, X)."""


def draw_examples(
    path: Path,
    rows: Sequence[Row],
    table: LabelTable,
    spacing: Spacing,
    title: str,
    rgb: Sequence[int] | None = None,
    upright: bool = False,
) -> None:
    """Write a PNG with the rows in two blocks side by side; the first row's first example sets slice and grey levels.

    ``rgb`` are the channels red, green and blue, else the first one is shown. ``upright`` turns canonical axes to
    radiological habit: front on top, the patient's right on the left. Raises MedsegError when it can't be written.
    """
    first, marks = rows[0].images[0], topmost(rows[0].labels[0], table)
    place = _fullest(marks)
    shown = list(rgb) if rgb else [0]
    low, high = (np.percentile(first[shown], q) for q in (0.5, 99.5))
    height_mm, width_mm = first.shape[2] * spacing[1], first.shape[3] * spacing[2]
    size = _PANEL_INCHES * np.array([height_mm, width_mm]) / max(height_mm, width_mm)
    columns = max(len(row.images) for row in rows)
    figure, corner_of = _page(len(rows), columns, size, len(table.targets))
    colors = colors_of(table.targets)
    for number, row in enumerate(rows):
        for column, (image, labels) in enumerate(zip(row.images, row.labels, strict=True)):
            ax = figure.add_axes(corner_of(number, column))
            pixels = np.clip((image[shown, place] - low) / max(high - low, 1e-6), 0, 1)
            numbers = topmost(labels, table)[place]
            if upright:
                pixels, numbers = pixels[:, ::-1, ::-1], numbers[::-1, ::-1]
            _draw_panel(ax, pixels, numbers, colors, spacing[1] / spacing[2])
        left, bottom, _, height = corner_of(number, 0)
        figure.text(left, bottom + height + 0.03 / figure.get_figheight(), row.name, fontsize=9, color=_INK)
    figure.text(_SIDE / figure.get_figwidth(), 1 - 0.28 / figure.get_figheight(), title, fontsize=11, color=_INK)
    if colors:
        handles = [Line2D([], [], color=fractions(color), linewidth=2) for color in colors]
        names = [name.replace("$", r"\$") for name in table.target_names]
        figure.legend(handles, names, loc="lower center", ncols=min(len(names), 6), frameon=False, fontsize=9)
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png", facecolor="white", metadata={"Software": None})


def _page(rows: int, columns: int, size: NDArray[np.float64], targets: int) -> tuple[Figure, Any]:
    """A figure, and the function that gives each panel's (left, bottom, width, height) in it."""
    per_block = -(-rows // _BLOCKS)
    step = size + _GAP
    block = columns * step[1] + _SIDE
    above, below = 0.45, 0.25 + 0.22 * -(-min(targets, 24) // 6)
    page = _SIDE + _BLOCKS * block, above + per_block * (step[0] + _ABOVE) + below

    def corner_of(number: int, column: int) -> tuple[float, float, float, float]:
        left = _SIDE + (number // per_block) * block + column * step[1]
        top = above + (number % per_block) * (step[0] + _ABOVE) + _ABOVE
        return left / page[0], 1 - (top + size[0]) / page[1], size[1] / page[0], size[0] / page[1]

    return Figure(figsize=page), corner_of


def _draw_panel(
    ax: Axes, pixels: NDArray[np.float32], numbers: NDArray[np.integer], colors: Sequence[Color], aspect: float
) -> None:
    """One slice: pixels (1 or 3, Y, X) from 0 to 1, and numbers of targets (Y, X)."""
    picture = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    limits = ax.get_xlim(), ax.get_ylim()
    for number in (int(n) for n in np.unique(numbers) if n):
        mask = np.pad(numbers == number, 1).astype(float)
        rows, columns = (np.arange(n) - 1 for n in mask.shape)
        ax.contour(columns, rows, mask, levels=[0.5], colors=[fractions(colors[number - 1])], linewidths=1.0)
    ax.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _fullest(numbers: Labels) -> int:
    """The slice that shows most of the targets, each counted against its own largest slice; else the middle."""
    score = np.zeros(len(numbers))
    for number in (int(n) for n in np.unique(numbers) if n):
        area = (numbers == number).sum(axis=(1, 2))
        score += area / area.max()
    return int(score.argmax()) if score.any() else len(numbers) // 2
