"""The colours in which targets are drawn where the label table names none, and which of them lies on top.

The first seven are those of Okabe and Ito (2008, "Color Universal Design"), told apart with any common colour
blindness; then come the bright and muted schemes of Paul Tol (2021), and past those hues that keep as far apart as
they can.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from medseg.arrays import Labels, label_dtype
from medseg.cases.labels import LabelTable, Target

Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (170, 68, 153),
    (153, 221, 255),
    (187, 204, 51),
    (238, 136, 102),
    (136, 204, 238),
    (68, 187, 153),
    (221, 204, 119),
    (204, 102, 119),
    (153, 153, 51),
    (68, 119, 170),
    (136, 34, 85),
    (17, 119, 51),
    (51, 34, 136),
)
_GOLDEN = 0.618034


def color_of(index: int) -> Color:
    """The default colour of the structure with this index (1 is the first)."""
    if index <= len(COLORS):
        return COLORS[index - 1]
    red, green, blue = colorsys.hsv_to_rgb((index * _GOLDEN) % 1, 0.55 + 0.15 * (index % 3), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def colors_of(targets: Sequence[Target]) -> tuple[Color, ...]:
    """One colour for each target: its own, else a default of its place."""
    return tuple(target.color or color_of(number) for number, target in enumerate(targets, start=1))


def topmost(labels: Labels, table: LabelTable) -> Labels:
    """The target on top of each voxel of label indices (Z, Y, X), numbered from 1 in their order; 0 for none."""
    numbers = np.zeros(len(table.known_values), label_dtype(len(table.targets)))
    for number, target in enumerate(table.targets, start=1):
        numbers[list(target.indices)] = number
    return numbers[labels]


def fractions(color: Color) -> tuple[float, float, float]:
    """The colour with parts from 0 to 1, as drawing libraries want it."""
    red, green, blue = color
    return red / 255, green / 255, blue / 255
