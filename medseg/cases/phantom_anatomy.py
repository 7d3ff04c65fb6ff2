"""What the anatomy of a phantom is made of: bodies, the parts that they make up, and the whole.

Knows no voxels and no patient. World coordinates are RAS+ in mm: x runs to the patient's right, y to the front, z to
the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]
"""(x, y, z) in mm, RAS+: a place in the patient, not an index of voxels."""

SOFT_TISSUE = 45.0
"""Intensity of unenhanced soft tissue, from which contrast is counted."""


@dataclass(frozen=True)
class Body:
    """A superellipsoid |x/a|^p + |y/b|^p + |z/c|^p = 1, turned about its centre."""

    centre: Point
    axes: Point
    """Half extents a, b, c in mm."""
    power: float = 2.0
    turn: float = 0.0
    """Degrees in the x-z plane; positive tips the top towards the patient's right."""


Bodies = tuple[Body, ...]


@dataclass(frozen=True)
class Part:
    """A union of bodies with one intensity; a later Part covers an earlier one."""

    name: str
    intensity: float
    """HU, or the units of the first channel."""
    bodies: Bodies
    spread: float = 5.0
    """Standard deviation of the intensity from patient to patient."""
    wander_mm: float = 0.0
    """Standard deviation of the position along each axis; size and tilt vary with it."""
    moves_with: str = ""
    """The Part whose displacement it shares."""
    belongs_to: str = ""
    """The structure whose label it bears where it has none of its own; otherwise it is background."""
    enhancing: bool = False
    """Whether the contrast setting acts on it (in the first channel)."""
    told_from: str = ""
    """The Part from which it differs by the recipe's lesion contrast, instead of an intensity of its own."""
    others: tuple[float, ...] = ()
    """Its intensity in further channels."""


@dataclass(frozen=True)
class Anatomy:
    """A part of the body, as all patients have it."""

    parts: tuple[Part, ...]
    """In the order of drawing."""
    structures: tuple[str, ...]
    """Parts that a recipe may label."""
    around: tuple[float, ...]
    """Intensity around the patient in each channel."""
    lowest: float
    """Intensities below it are set to it."""
    grow: Callable[[np.random.Generator, tuple[float, float]], dict[str, Bodies]]
    """Draws the bodies that every patient has elsewhere, by Part, from the smallest and largest radius in mm."""


def both_sides(body: Body) -> Bodies:
    """A body and its mirror image."""
    x, y, z = body.centre
    return body, Body((-x, y, z), body.axes, body.power, -body.turn)
