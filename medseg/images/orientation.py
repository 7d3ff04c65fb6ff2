"""Which way the axes of a stored array run in the patient, and the turn that brings them to the nearest RAS grid.

Knows nothing of files and moves no voxels: it reads the affine and returns a signed permutation. The permutation is
the one with the largest sum of absolute direction cosines, so every axis is used exactly once, however oblique the
scan is.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from jaxtyping import Float64

from medseg.arrays import Affine, Triple

# Canonical axis i follows this row of the affine: axis 0 runs along world z (inferior to superior), 1 along y, 2 along
# x (left to right).
_WORLD_ROWS = (2, 1, 0)
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


def to_canonical(affine: Affine) -> tuple[Triple, tuple[bool, bool, bool]]:
    """Permutation and flips that bring a stored array (z, y, x) to the nearest RAS orientation.

    ``permutation[i]`` is the stored axis that becomes axis i; ``flips[i]`` says whether axis i then has to be
    reversed. Afterwards axis 0 runs from inferior to superior, 1 from posterior to anterior, 2 from left to right.
    """
    cosines = _cosines(affine)
    best = max(permutations(range(3)), key=lambda order: round(_agreement(cosines, order), 9))
    a, b, c = best
    up, front, right = (bool(cosines[row, axis] < 0) for row, axis in zip(_WORLD_ROWS, best, strict=True))
    return (a, b, c), (up, front, right)


def left_right_axis(affine: Affine) -> int:
    """The stored axis (0, 1 or 2) that lies nearest to the patient's left-right direction."""
    return to_canonical(affine)[0][2]


def axis_codes(affine: Affine) -> str:
    """The direction in which the stored axes z, y, x increase, such as "SAR" for a canonical array."""
    order, flips = to_canonical(affine)
    codes = ["", "", ""]
    for row, axis, flipped in zip(_WORLD_ROWS, order, flips, strict=True):
        codes[axis] = _CODES[row][0 if flipped else 1]
    return "".join(codes)


def _cosines(affine: Affine) -> Float64[np.ndarray, "3 3"]:
    axes = affine[:3, :3]
    return axes / np.linalg.norm(axes, axis=0)


def _agreement(cosines: Float64[np.ndarray, "3 3"], order: tuple[int, ...]) -> float:
    return float(sum(abs(cosines[row, axis]) for row, axis in zip(_WORLD_ROWS, order, strict=True)))
