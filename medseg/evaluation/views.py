"""Which slices of a Case are worth looking at, and how they lie on the page.

Knows nothing of drawing. Pictures follow radiological habit: the patient's right is on the left of the page, anterior
is up (axial) or left (sagittal), the head is up. Where the orientation is unknown the array is shown as it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.arrays import Affine, Labels, Spacing, Triple
from medseg.images.orientation import to_canonical

_MARGIN = 0.35
_MARGIN_MM = 10.0


@dataclass(frozen=True)
class View:
    """One slice through the array that ``turned`` gives, perpendicular to ``axis``."""

    name: str
    axis: int
    place: int
    window: tuple[slice, slice]
    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""
    marks: tuple[str, str, str, str] | None
    """What lies at the top, bottom, left and right of the page; None where that is unknown."""

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """The slice as it lies on the page, first row on top."""
        return np.take(array, self.place, axis=self.axis)[self.window]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the window."""
        rows, columns = (window.stop - window.start for window in self.window)
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def turned(array: NDArray[Any], affine: Affine | None) -> NDArray[Any]:
    """The array (Z, Y, X) with its axes running head to foot, front to back, right to left; as stored without affine.

    Then the first row and column of every slice belong at the top and left of the page.
    """
    if affine is None:
        return array
    order, flips = to_canonical(affine)
    # Canonical axes increase towards superior, anterior and right; the page wants the opposite of each.
    return np.transpose(array, order)[tuple(slice(None) if flipped else slice(None, None, -1) for flipped in flips)]


def choose_views(labels: Labels, spacing: Spacing, affine: Affine | None) -> list[View]:
    """Up to three views of a turned array: for each axis the slice that shows most of the structures.

    A structure's area counts relative to its largest slice, so that a small one is not outvoted by a large one. A slice
    of one voxel's width is no view, unless there is no wider one; without any structure the middle is taken.
    """
    order = (0, 1, 2) if affine is None else to_canonical(affine)[0]
    z, y, x = (spacing[axis] for axis in order)
    window = _window(labels, (z, y, x))
    known = affine is not None
    names = ("axial", "coronal", "sagittal") if known else ("axis z", "axis y", "axis x")
    marks = (("A", "P", "R", "L"), ("S", "I", "R", "L"), ("S", "I", "A", "P"))
    views = []
    for axis, ((rows, columns), pixel_mm) in enumerate([((1, 2), (y, x)), ((0, 2), (z, x)), ((0, 1), (z, y))]):
        place = _fullest(labels, axis)
        shown = (window[rows], window[columns])
        views.append(View(names[axis], axis, place, shown, pixel_mm, marks[axis] if known else None))
    wide = [view for view in views if min(np.take(labels, 0, axis=view.axis).shape) > 1]
    return wide or [max(views, key=lambda view: np.take(labels, 0, axis=view.axis).size)]


def grey_range(image: NDArray[np.floating], labels: Labels) -> tuple[float, float]:
    """Black and white levels: the structures' intensities with room on both sides, within what the image holds.

    So that soft tissue in a CT is not one grey between air and metal.
    """
    inside = image[labels > 0]
    darkest, brightest = (float(level) for level in np.percentile(image, [0.5, 99.5]))
    if inside.size:
        low, high = (float(level) for level in np.percentile(inside, [1, 99]))
        room = 0.75 * (high - low)
        darkest, brightest = max(darkest, low - room), min(max(brightest, high), high + room)
    return (darkest, brightest) if brightest > darkest else (darkest - 1, darkest + 1)


def _fullest(labels: Labels, axis: int) -> int:
    score = np.zeros(labels.shape[axis])
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            area = (labels[box] == index).sum(axis=tuple(other for other in range(3) if other != axis))
            score[box[axis]] += area / area.max()
    return int(score.argmax()) if score.any() else labels.shape[axis] // 2


def _window(labels: Labels, spacing: Spacing) -> tuple[slice, slice, slice]:
    """The structures' joint box with a margin in mm, the same on every axis; the whole array without structures."""
    boxes = [box for box in ndimage.find_objects((labels > 0).astype(np.uint8)) if box is not None]
    shape: Triple = labels.shape  # type: ignore[assignment]
    box = boxes[0] if boxes else tuple(slice(0, extent) for extent in shape)
    lengths_mm = [(part.stop - part.start) * step for part, step in zip(box, spacing, strict=True)]
    margin_mm = max(_MARGIN * max(lengths_mm), _MARGIN_MM)
    z, y, x = (
        slice(max(part.start - round(margin_mm / step), 0), min(part.stop + round(margin_mm / step), extent))
        for part, step, extent in zip(box, spacing, shape, strict=True)
    )
    return z, y, x
