"""A Volume: voxels and the affine that says where each of them lies in the patient.

Knows nothing of files. Spacing, origin and direction are properties of the one affine, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Spacing, Triple
from medseg.errors import GeometryError


@dataclass(frozen=True, eq=False)
class Volume:
    """An image ``(C, Z, Y, X)`` or Labels ``(Z, Y, X)`` as stored, with its affine.

    ``affine`` maps (z, y, x, 1) of the stored array to world millimetres, RAS+. ``header`` is whatever the reader
    keeps in order to write a file with the very same geometry; nobody else looks into it.

    Raises GeometryError for an affine that is not 4x4, finite and invertible, or an array of another rank.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    header: Any = field(default=None, repr=False)
    orientation_known: bool = True
    """False where the file does not say how it lies in the patient (PNG, TIFF, NIfTI with both codes 0)."""
    remarks: tuple[str, ...] = ()
    """What the reader found odd but harmless; ``medseg check`` shows it."""

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4):
            raise GeometryError(f"A Volume is (C, Z, Y, X) or (Z, Y, X), but this array has shape {self.array.shape}.")
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or _is_flat(affine[:3, :3]):
            raise GeometryError("The affine should be a finite, invertible 4x4 matrix, but is " + str(affine.tolist()))
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> Triple:
        """Voxels per axis (z, y, x), channels left out."""
        z, y, x = self.array.shape[-3:]
        return z, y, x

    @property
    def spacing(self) -> Spacing:
        """Millimetres per axis (z, y, x): the lengths of the affine's columns."""
        return spacing_of(self.affine)


def _is_flat(axes: NDArray[np.float64]) -> bool:
    """Whether three axes span no volume, whatever their length: microscopes have voxels far below a micrometre."""
    lengths = np.linalg.norm(axes, axis=0)
    return bool((lengths == 0).any() or abs(np.linalg.det(axes / lengths)) < 1e-9)


def spacing_of(affine: NDArray[np.float64]) -> Spacing:
    """Lengths of the affine's first three columns, mm, (z, y, x); rounding noise of float32 headers is removed."""
    z, y, x = (float(np.round(length, 6)) for length in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return z, y, x


def require_same_grid(first: Volume, second: Volume, first_name: str, second_name: str) -> None:
    """Raise GeometryError unless both Volumes have the same shape and lie in the same place.

    Compared in millimetres at the corners of the grid: a corner may be off by at most 1 % of the smallest spacing, or
    0.01 mm if that is more (headers store float32, and tools round).
    """
    if first.shape != second.shape:
        raise GeometryError(
            f"{second_name} has shape {second.shape} but {first_name} has {first.shape} (z, y, x). "
            "Resample one onto the other's grid, or leave the case out."
        )
    distance_mm = corner_distance_mm(first.affine, second.affine, first.shape)
    if distance_mm > max(0.01 * min(first.spacing), 0.01):
        raise GeometryError(
            f"{second_name} lies elsewhere than {first_name}: spacing {second.spacing} against {first.spacing} mm "
            f"(z, y, x), corners up to {distance_mm:.3g} mm apart. Correct the header, or leave the case out."
        )


def corner_distance_mm(first: NDArray[np.float64], second: NDArray[np.float64], shape: Triple) -> float:
    """Largest distance in mm between the eight grid corners under two affines."""
    corners = np.array([[z, y, x, 1.0] for z in (0, shape[0]) for y in (0, shape[1]) for x in (0, shape[2])])
    return float(np.linalg.norm(((first - second) @ corners.T)[:3], axis=0).max())
