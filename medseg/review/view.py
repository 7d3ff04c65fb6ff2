"""What a reader has chosen to see, and the picture of one plane that follows from it.

Knows nothing of pages: a page turns its widgets into a View, and shows what ``draw_plane`` gives. The interactive view
is told by the same View.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Triple
from medseg.evaluation.palette import Color
from medseg.review.alignment import AlignedCase
from medseg.review.cache import OpenCase
from medseg.review.case import Finding
from medseg.review.overlays import colors_by_index, paint_difference, paint_heat, paint_labels
from medseg.review.slices import Frame, Picture, Plane, draw_cross, draw_grey, draw_marks, draw_ruler
from medseg.review.windows import Window


@dataclass(frozen=True)
class Heat:
    """A map over the image."""

    path: Path
    low: float
    high: float
    opacity: float = 0.6
    name: str = ""
    """What it shows, in the reader's words."""


@dataclass(frozen=True)
class Difference:
    """A structure as two label maps have it."""

    first: Finding
    second: Finding
    structure: str
    opacity: float = 0.6


@dataclass(frozen=True)
class View:
    """Everything a picture depends on, beside the Case itself."""

    window: Window
    place: Triple
    """The voxel (z, y, x) of the page that is looked at."""
    channel: int = 0
    finding: Finding | None = None
    shown: frozenset[str] | None = None
    """Structures that are on; all of them, where it is None."""
    colors: Mapping[str, Color] = field(default_factory=dict)
    """Where they are not the label table's."""
    opacity: float = 0.45
    outline: bool = False
    heat: Heat | None = None
    difference: Difference | None = None
    zoom: float = 1.0
    cross: bool = True
    ruler: tuple[Triple, Triple] | None = None


def frame_of(one: OpenCase | AlignedCase, view: View, plane: Plane, size: int) -> Frame:
    """How a plane of the Case lies in a picture of this many pixels on its longer side."""
    return Frame(plane, one.shape, one.spacing, view.place, size, view.zoom)


def draw_plane(one: OpenCase | AlignedCase, view: View, plane: Plane, size: int = 640) -> Picture:
    """The picture of a plane. Raises what reading a label map or a map raises."""
    frame = frame_of(one, view, plane, size)
    picture = draw_grey(one.image[view.channel], frame, view.window)
    if view.heat is not None:
        paint_heat(picture, one.map(view.heat.path), frame, view.heat.low, view.heat.high, view.heat.opacity)
    if view.difference is not None:
        difference = view.difference
        first, second = (
            _mask(one, frame, each, difference.structure) for each in (difference.first, difference.second)
        )
        paint_difference(picture, first, second, frame, difference.opacity)
    elif view.finding is not None:
        colors = colors_by_index(view.finding.table, view.shown, view.colors)
        paint_labels(picture, one.labels(view.finding), frame, colors, view.opacity, view.outline)
    if view.ruler is not None:
        draw_ruler(picture, frame, *view.ruler)
    if view.cross:
        draw_cross(picture, frame)
    if one.record.orientation_known:
        draw_marks(picture, plane)
    return picture


def _mask(one: OpenCase | AlignedCase, frame: Frame, finding: Finding, structure: str) -> NDArray[np.bool_]:
    """Where a structure is in the frame's slice, ``(rows, columns)``; nowhere, where the table does not know it."""
    cut = frame.cut(one.labels(finding))
    target = next((each for each in finding.table.targets if each.name == structure), None)
    return cut < 0 if target is None else target.mask(cut)
