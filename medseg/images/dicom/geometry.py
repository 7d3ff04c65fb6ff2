"""Whether slices make a volume: their order, their affine, and the verdict.

Knows no files and no pixels. A slice lies at ``position . normal``; slices are sorted along their normal (row x
column), as ITK sorts them, so that index z of the volume is slice z and rows and columns stay what they are. Rules:
DICOM PS3.3 C.7.6.2; a step that is at right angles to the slices to 1e-3 counts as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.images.dicom.verdict import Verdict

ORIENTATION_TOLERANCE = 1e-3
SAME_PLACE_MM = 0.01
_UNEVEN = 0.05
"""A slice may be off by this share of the spacing; scanners round positions."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Geometry:
    """The verdict, and where the voxels of the volume lie; the affine is (z, y, x, 1) to RAS+ mm."""

    verdict: Verdict
    detail: str = ""
    """In words: which slices, how many degrees."""
    affine: NDArray[np.float64] | None = None
    """Of the stacked slices, or of the regular grid that irregular ones are resampled to; None without geometry."""
    planes: int = 0
    """Slices of that grid."""
    places: Vector | None = None
    """``(slices, 3)``: where each slice's first voxel lies on that grid, in voxels (z, y, x); whole numbers 0, 1, 2,
    ... along z and zeros along y and x for a regular series."""
    margin: tuple[int, int] = (0, 0)
    """Rows and columns by which that grid is larger than a slice."""


def axes_of(orientation: Sequence[float]) -> tuple[Vector, Vector, Vector]:
    """Unit vectors along rows, along columns and along their normal, LPS+."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    return along_row, along_column, np.cross(along_row, along_column)


def orientation_problem(orientation: Sequence[float] | None, pixel_spacing: Sequence[float] | None) -> str:
    """Why a slice has no place in the patient; empty when it has."""
    if orientation is None:
        return "the headers have no ImageOrientationPatient"
    if pixel_spacing is None or min(pixel_spacing) <= 0:
        return "the headers have no PixelSpacing above 0"
    along_row, along_column, _ = axes_of(orientation)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if max(abs(length - 1) for length in lengths) > ORIENTATION_TOLERANCE:
        return f"ImageOrientationPatient {list(orientation)} has no unit vectors"
    if abs(along_row @ along_column) > ORIENTATION_TOLERANCE:
        return f"ImageOrientationPatient {list(orientation)} has no right angle"
    return ""


def distances(positions: Vector, orientation: Sequence[float]) -> Vector:
    """Of each slice along the normal, mm."""
    return positions @ axes_of(orientation)[2]


def judge(positions: Vector, orientation: Sequence[float], pixel_spacing: Sequence[float]) -> Geometry:
    """The verdict on slices ``(n, 3)`` in ascending order along their normal, no two at the same place."""
    if len(positions) < 2:
        return Geometry(Verdict.TOO_FEW, "a single slice has no spacing")
    where = distances(positions, orientation)
    gaps = np.diff(where)
    if gaps.min() < SAME_PLACE_MM:
        return Geometry(Verdict.CONFLICT, "slices lie side by side in one plane")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    straight = positions[0] + np.arange(len(positions))[:, None] * step
    normal = axes_of(orientation)[2]
    spacing = float(step @ normal)
    uneven = float(np.abs((positions - straight) @ normal).max()) > _UNEVEN * spacing
    off_line = _off_line(positions, where, normal)
    if uneven:
        return _resampled(positions, orientation, pixel_spacing, *_unevenness(gaps))
    if off_line > max(_UNEVEN * min(pixel_spacing), SAME_PLACE_MM):
        detail = f"slices are shifted sideways by up to {off_line:.3g} mm"
        return _resampled(positions, orientation, pixel_spacing, Verdict.VARIABLE_SPACING, detail, spacing)
    tilt = math.degrees(math.atan2(float(np.linalg.norm(step - spacing * normal)), spacing))
    if math.sin(math.radians(tilt)) > ORIENTATION_TOLERANCE:
        detail = f"slices are tilted by {tilt:.2f} degrees"
        return _resampled(positions, orientation, pixel_spacing, Verdict.TILTED, detail, spacing)
    places = np.zeros((len(positions), 3))
    places[:, 0] = np.arange(len(positions))
    affine = affine_of(positions[0], step, orientation, pixel_spacing)
    return Geometry(Verdict.REGULAR, "", affine, len(positions), places)


def affine_of(
    origin: Vector, step: Vector, orientation: Sequence[float], pixel_spacing: Sequence[float]
) -> NDArray[np.float64]:
    """(z, y, x, 1) to RAS+ mm, from DICOM's LPS+ numbers; ``pixel_spacing`` is between rows, between columns."""
    along_row, along_column, _ = axes_of(orientation)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * pixel_spacing[0]
    affine[:3, 2] = along_row * pixel_spacing[1]
    affine[:3, 3] = origin
    return _LPS_TO_RAS @ affine


def _off_line(positions: Vector, where: Vector, normal: Vector) -> float:
    """How far slices lie beside the line from the first to the last, mm, seen along the normal."""
    sideways = positions - where[:, None] * normal
    share = (where - where[0]) / (where[-1] - where[0])
    line = sideways[0] + share[:, None] * (sideways[-1] - sideways[0])
    return float(np.linalg.norm(sideways - line, axis=1).max())


def _unevenness(gaps: Vector) -> tuple[Verdict, str, float]:
    """Missing slices (single wide gaps, multiples of the others) or another spacing; in words; the grid's spacing."""
    smallest = float(np.median(gaps[gaps <= gaps.min() * (1 + 2 * _UNEVEN)]))
    multiples = gaps / smallest
    wide = np.rint(multiples) > 1
    whole = np.abs(multiples - np.rint(multiples)) <= 2 * _UNEVEN
    isolated = not (wide[1:] & wide[:-1]).any()
    if whole.all() and isolated and wide.mean() < 0.5:
        missing = int((np.rint(multiples) - 1).sum())
        return Verdict.GAP, f"{missing} slice{'s are' if missing > 1 else ' is'} missing", smallest
    detail = f"distances of slices differ: {gaps.min():.4g} to {gaps.max():.4g} mm"
    return Verdict.VARIABLE_SPACING, detail, float(np.median(gaps))


def _resampled(
    positions: Vector,
    orientation: Sequence[float],
    pixel_spacing: Sequence[float],
    verdict: Verdict,
    detail: str,
    spacing: float,
) -> Geometry:
    """The regular grid at right angles that holds every slice: whole voxels larger where slices are shifted."""
    along_row, along_column, normal = axes_of(orientation)
    moved = positions - positions[0]
    places = np.stack(
        [moved @ normal / spacing, moved @ along_column / pixel_spacing[0], moved @ along_row / pixel_spacing[1]],
        axis=1,
    )
    low, high = np.floor(places.min(axis=0) + 1e-6), np.ceil(places.max(axis=0) - 1e-6)
    planes = round(float(places[-1, 0])) + 1
    origin = positions[0] + low[1] * pixel_spacing[0] * along_column + low[2] * pixel_spacing[1] * along_row
    affine = affine_of(origin, spacing * normal, orientation, pixel_spacing)
    margin = (int(high[1] - low[1]), int(high[2] - low[2]))
    return Geometry(verdict, detail, affine, planes, places - [0, low[1], low[2]], margin)
