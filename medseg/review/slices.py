"""One plane of a Case as a picture: cut, windowed, with square pixels and the letters that say which side is which.

Knows nothing of files or pages. Arrays lie on the page already (``medseg.review.turn``), so a plane is shown as it is:
first row on top, the patient's right on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.arrays import Spacing, Triple
from medseg.review.windows import Window

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
"""In the order of the axes that they are perpendicular to."""
Picture = NDArray[np.uint8]
"""(rows, columns, 3)."""
_MARKS: dict[Plane, tuple[str, str, str, str]] = {
    "axial": ("A", "P", "R", "L"),
    "coronal": ("S", "I", "R", "L"),
    "sagittal": ("S", "I", "A", "P"),
}
"""What lies at the top, bottom, left and right of the page."""
_LETTERS = {
    "A": "0110 1001 1001 1111 1001 1001 1001",
    "I": "1110 0100 0100 0100 0100 0100 1110",
    "L": "1000 1000 1000 1000 1000 1000 1111",
    "P": "1110 1001 1001 1110 1000 1000 1000",
    "R": "1110 1001 1001 1110 1010 1001 1001",
    "S": "0111 1000 1000 0110 0001 0001 1110",
}
"""Six letters need no font."""
_LETTER_COLOR = (255, 204, 64)
_CROSS_COLOR = (120, 220, 120)
_GAP = 12
"""Pixels around the crosshair's centre that stay free."""


class Sliceable(Protocol):
    """An array (Z, Y, X), or what gives its planes like one."""

    def __getitem__(self, place: Any, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Frame:
    """How a plane of an array (Z, Y, X) becomes a picture: what part of it is seen, and how large a pixel is."""

    plane: Plane
    shape: Triple
    spacing: Spacing
    """Millimetres (z, y, x) on the page."""
    place: Triple
    """The voxel (z, y, x) that is looked at; its part along the plane's axis says which slice."""
    size: int = 640
    """Pixels of the picture's longer side."""
    zoom: float = 1.0

    @property
    def axis(self) -> int:
        return PLANES.index(self.plane)

    @property
    def axes(self) -> tuple[int, int]:
        """The array's axes that run down and to the right."""
        down, right = (axis for axis in range(3) if axis != self.axis)
        return down, right

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns that are seen: all of them, or with ``zoom`` those around the place."""
        down, right = self.axes
        return _around(self.place[down], self.shape[down], self.zoom), _around(
            self.place[right], self.shape[right], self.zoom
        )

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the picture."""
        lengths = [
            (part.stop - part.start) * self.spacing[axis] for part, axis in zip(self.part, self.axes, strict=True)
        ]
        scale = self.size / max(lengths)
        rows, columns = (max(round(length * scale), 1) for length in lengths)
        return rows, columns

    def cut(self, array: Sliceable) -> NDArray[Any]:
        """The part of the slice that is seen, of ``(Z, Y, X)``."""
        place: list[int | slice] = list(self.part)
        place.insert(self.axis, self.place[self.axis])
        return np.ascontiguousarray(array[tuple(place)])

    def enlarged(self, values: NDArray[Any]) -> NDArray[Any]:
        """A cut of labels or other kinds at the size of the picture, each pixel that of the nearest voxel."""
        rows, columns = (
            np.minimum((np.arange(wanted) + 0.5) * given / wanted, given - 1).astype(int)
            for wanted, given in zip(self.pixels, values.shape[:2], strict=True)
        )
        return values[rows[:, None], columns]

    def smoothed(self, values: NDArray[np.number]) -> NDArray[np.float32]:
        """A cut of intensities at the size of the picture, linear between the centres of voxels."""
        factors = [wanted / given for wanted, given in zip(self.pixels, values.shape, strict=True)]
        found = ndimage.zoom(values.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
        return np.asarray(found, dtype=np.float32)

    def voxel_at(self, down: float, right: float) -> Triple:
        """The voxel (z, y, x) under a point of the picture, given as shares (0 to 1) of its height and width."""
        found = list(self.place)
        for share, part, axis in zip((down, right), self.part, self.axes, strict=True):
            found[axis] = min(part.start + int(max(share, 0) * (part.stop - part.start)), part.stop - 1)
        z, y, x = found
        return z, y, x

    def pixel_of(self, voxel: Triple) -> tuple[int, int]:
        """Row and column of the picture where the middle of a voxel lies; outside of it where the voxel is not seen."""
        row, column = (
            int((voxel[axis] + 0.5 - part.start) / (part.stop - part.start) * pixels)
            for axis, part, pixels in zip(self.axes, self.part, self.pixels, strict=True)
        )
        return row, column


def draw_grey(image: Sliceable, frame: Frame, window: Window) -> Picture:
    """The plane of an image (Z, Y, X) in grey."""
    grey = window.grey(frame.smoothed(frame.cut(image)))
    return np.repeat(grey[:, :, None], 3, axis=2)


def draw_cross(picture: Picture, frame: Frame) -> None:
    """Thin lines through the place that is looked at, open in the middle."""
    row, column = frame.pixel_of(frame.place)
    height, width = picture.shape[:2]
    for start, stop in ((0, max(row - _GAP, 0)), (min(row + _GAP, height), height)):
        picture[start:stop, column] = _CROSS_COLOR
    for start, stop in ((0, max(column - _GAP, 0)), (min(column + _GAP, width), width)):
        picture[row, start:stop] = _CROSS_COLOR


def draw_marks(picture: Picture, plane: Plane) -> None:
    """R, L, A, P, S, I at the edges. Not to be called where the orientation is unknown."""
    height, width = picture.shape[:2]
    scale = max(round(max(height, width) / 140), 1)
    top, bottom, left, right = (_letter(name, scale) for name in _MARKS[plane])
    tall, wide = top.shape
    margin = 3 * scale
    middle, centre = (height - tall) // 2, (width - wide) // 2
    for letter, row, column in (
        (top, margin, centre),
        (bottom, height - margin - tall, centre),
        (left, middle, margin),
        (right, middle, width - margin - right.shape[1]),
    ):
        if row < 0 or column < 0:
            continue  # a picture too small for letters
        area = picture[row : row + letter.shape[0], column : column + letter.shape[1]]
        halo = np.asarray(ndimage.binary_dilation(letter, iterations=scale), dtype=bool)
        area[halo[: area.shape[0], : area.shape[1]]] //= 4
        area[letter[: area.shape[0], : area.shape[1]]] = _LETTER_COLOR


def draw_ruler(picture: Picture, frame: Frame, first: Triple, second: Triple) -> None:
    """A line between two voxels, as far as it lies in the picture."""
    (row, column), (other_row, other_column) = frame.pixel_of(first), frame.pixel_of(second)
    steps = max(abs(other_row - row), abs(other_column - column), 1)
    rows = np.rint(np.linspace(row, other_row, steps + 1)).astype(int)
    columns = np.rint(np.linspace(column, other_column, steps + 1)).astype(int)
    inside = (rows >= 0) & (rows < picture.shape[0]) & (columns >= 0) & (columns < picture.shape[1])
    picture[rows[inside], columns[inside]] = _LETTER_COLOR


def _letter(name: str, scale: int) -> NDArray[np.bool_]:
    rows = np.array([[cell == "1" for cell in row] for row in _LETTERS[name].split()])
    return np.kron(rows, np.ones((scale, scale), dtype=bool))


def _around(place: int, length: int, zoom: float) -> slice:
    seen = max(round(length / max(zoom, 1.0)), 1)
    start = min(max(place - seen // 2, 0), length - seen)
    return slice(start, start + seen)
