"""The verdicts on a series: whether its slices make a volume, and what stands against it.

Knows no pixels. The order is that of severity; a series gets the worst that applies, and remarks tell the rest.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What the positions of a series' slices amount to."""

    REGULAR = "regular"
    """Evenly spaced along their normal."""
    IOP_SNAPPED = "iop_snapped"
    """The same, but orientations differ by rounding (at most 1e-3) and are taken as the first one's."""
    DUPLICATE_RESOLVED = "duplicate_resolved"
    """Slices were there twice, voxel for voxel; one of each was kept."""
    GAP = "gap"
    """Slices are missing in between."""
    VARIABLE_SPACING = "variable_spacing"
    """Distances differ, or slices are shifted sideways unevenly."""
    TILTED = "tilted"
    """Slices are stacked at another angle than a right one, as with a tilted gantry."""
    CONFLICT = "conflict"
    """Positions repeat with other voxels, and nothing in the headers tells the slices apart."""
    TOO_FEW = "too_few"
    """A single slice: no spacing."""
    NO_GEOMETRY = "no_geometry"
    """The headers do not say where the slices lie."""


SAFE = frozenset({Verdict.REGULAR, Verdict.IOP_SNAPPED, Verdict.DUPLICATE_RESOLVED})
"""Taken without asking."""
RESAMPLED = frozenset({Verdict.GAP, Verdict.VARIABLE_SPACING, Verdict.TILTED})
"""Taken only where the user allows them; the volume is then interpolated on a regular grid."""
