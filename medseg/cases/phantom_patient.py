"""One patient drawn from the anatomy: sizes, positions, tilts, a smooth warp; and how much each body fills each voxel.

Every random number comes from one Philox generator seeded by (seed, case), in a fixed order, so that anatomy does not
depend on the scanner. Edges are soft over one voxel in the direction of the surface's normal: partial volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg.cases.phantom_anatomy import PARTS, SOFT_TISSUE, Body, Part, Point

Floats = NDArray[np.floating]
_WARP_MODES = 8
_WARP_LIMIT_MM = 16.0
_LOOPS = 22


def random_stream(seed: int, case_index: int, purpose: int) -> np.random.Generator:
    """A generator of its own for each (seed, case, purpose)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, case_index, purpose])))


@dataclass(frozen=True)
class Patient:
    """Placed bodies with their intensities, in the order of drawing, and the warp they all follow."""

    parts: tuple[Part, ...]
    scale: Point
    """Size against the anatomy, (x, y, z)."""
    waves: Floats
    """(modes, 3 components, 5): amplitude in mm, wave numbers in 1/mm along x, y, z, and phase."""

    def unwarp(self, x: Floats, y: Floats, z: Floats) -> list[Floats]:
        """World mm (broadcastable x, y, z) -> mm in the unwarped anatomy, three arrays of the full shape."""
        shape = np.broadcast_shapes(x.shape, y.shape, z.shape)
        found = []
        for component, (own, scale) in enumerate(zip((x, y, z), self.scale, strict=True)):
            shift = np.zeros(shape, np.float32)
            for amplitude, a, b, c, phase in self.waves[:, component]:
                # sin(s + t) by the addition theorem, so that sines are taken along single axes only
                s, t = a * x + b * y, c * z + phase
                shift += amplitude * (np.sin(s) * np.cos(t) + np.cos(s) * np.sin(t))
            found.append((own / scale + np.clip(shift, -_WARP_LIMIT_MM, _WARP_LIMIT_MM)).astype(np.float32))
        return found


def draw_patient(
    seed: int,
    case_index: int,
    shape: float,
    lesion_radius_mm: tuple[float, float],
    lesion_contrast: float,
    contrast: float,
) -> Patient:
    """A patient; ``shape`` scales all variation, the rest acts on intensities and the lesion."""
    random = random_stream(seed, case_index, 0)
    scale = 1 + 0.05 * shape * np.clip(random.standard_normal(3), -2, 2)
    waves = _draw_waves(random, shape)
    moves = {part.name: np.clip(random.standard_normal(8), -2.2, 2.2) for part in PARTS}
    liver = next(part for part in PARTS if part.name == "liver")
    lesion = _draw_lesion(random, liver.bodies[0], lesion_radius_mm)
    loops = _draw_loops(random)
    parts = []
    for part in PARTS:
        own, moved = moves[part.name], moves[part.moves_with or part.name]
        leader = next(x for x in PARTS if x.name == (part.moves_with or part.name))
        bodies = {"lesion": (lesion,), "bowel": loops}.get(part.name, part.bodies)
        intensity = part.intensity + part.spread * own[7]
        if part.enhancing:
            intensity = SOFT_TISSUE + contrast * (intensity - SOFT_TISSUE)
        placed = tuple(_moved(body, leader.wander_mm, moved, shape) for body in bodies)
        parts.append(replace(part, intensity=float(intensity), bodies=placed))
    liver_intensity = next(part.intensity for part in parts if part.name == "liver")
    parts = [replace(x, intensity=liver_intensity + lesion_contrast) if x.name == "lesion" else x for x in parts]
    x, y, z = (float(value) for value in scale)
    return Patient(tuple(parts), (x, y, z), waves)


def _moved(body: Body, wander_mm: float, move: Floats, shape: float) -> Body:
    if wander_mm == 0:
        return body
    x, y, z = (float(c + shape * wander_mm * m) for c, m in zip(body.centre, move[:3], strict=True))
    a, b, c = (float(s * (1 + 0.08 * shape * m)) for s, m in zip(body.axes, move[3:6], strict=True))
    return Body((x, y, z), (a, b, c), body.power, float(body.turn + 7 * shape * move[6]))


def _draw_waves(random: np.random.Generator, shape: float) -> Floats:
    amplitude = 6.0 * shape / np.sqrt(_WARP_MODES) * random.standard_normal((_WARP_MODES, 3, 1))
    direction = random.standard_normal((_WARP_MODES, 3, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    wave_number = 2 * np.pi / random.uniform(130, 320, (_WARP_MODES, 3, 1))
    phase = random.uniform(0, 2 * np.pi, (_WARP_MODES, 3, 1))
    return np.concatenate([amplitude, wave_number * direction, phase], axis=-1)


def _draw_lesion(random: np.random.Generator, liver: Body, radius_mm: tuple[float, float]) -> Body:
    """An ellipsoid well inside the liver's right lobe, clear of the kidney below it."""
    direction = random.standard_normal(3)
    place = 0.55 * random.uniform() ** (1 / 3) * direction / np.linalg.norm(direction)
    place[2] = abs(place[2])
    x, y, z = (float(c + p * a) for c, p, a in zip(liver.centre, place, liver.axes, strict=True))
    mean_mm = random.uniform(min(radius_mm), max(radius_mm))
    a, b, c = (float(mean_mm * factor) for factor in random.uniform(0.85, 1.15, 3))
    return Body((x, y, z), (a, b, c))


def _draw_loops(random: np.random.Generator) -> tuple[Body, ...]:
    """Bowel in front of the kidneys and below the stomach."""
    loops = []
    for x, y, z, a, b, c, turn in random.uniform(0, 1, (_LOOPS, 7)):
        centre = (float(-105 + 210 * x), float(-5 + 62 * y), float(-150 + 125 * z))
        loops.append(Body(centre, (float(12 + 22 * a), float(10 + 10 * b), float(10 + 16 * c)), 2.0, float(180 * turn)))
    return tuple(loops)


def coverage(body: Body, place: list[Floats], spacing_xyz: Point) -> tuple[tuple[slice, ...], Floats] | None:
    """(box, how much of each voxel in it the body fills, 0 to 1), or None where the body lies outside."""
    reach = (
        body.axes if body.turn == 0 else (1.25 * max(body.axes[0], body.axes[2]), body.axes[1], 1.25 * max(body.axes))
    )
    near = np.ones((1, 1, 1), bool)
    for coordinate, centre, extent, step in zip(place, body.centre, reach, spacing_xyz, strict=True):
        near = near & (np.abs(coordinate - centre) <= extent + step)
    box = _box(near)
    if box is None:
        return None
    dx, dy, dz = (coordinate[box] - np.float32(c) for coordinate, c in zip(place, body.centre, strict=True))
    if body.turn:
        cosine, sine = (np.float32(f(np.deg2rad(body.turn))) for f in (np.cos, np.sin))
        dx, dz = cosine * dx - sine * dz, sine * dx + cosine * dz
    power = np.float32(body.power)
    units = [np.abs(d) / np.float32(a) for d, a in zip((dx, dy, dz), body.axes, strict=True)]
    lowered = [unit if power == 2 else unit ** (power - 1) for unit in units]
    radius = np.maximum(sum(low * unit for low, unit in zip(lowered, units, strict=True)), 1e-6) ** (1 / power)
    steps = sum((low * np.float32(s / a)) ** 2 for low, s, a in zip(lowered, spacing_xyz, body.axes, strict=True))
    slope = np.sqrt(steps) * radius ** (1 - power)  # change of the radius over one voxel along the normal
    return box, np.clip(0.5 + (1 - radius) / np.maximum(slope, 1e-6), 0, 1)


def _box(near: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    found = []
    for axis in range(3):
        inside = np.flatnonzero(near.any(axis=tuple(other for other in range(3) if other != axis)))
        if inside.size == 0:
            return None
        found.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(found)


def parts_filled(
    patient: Patient, place: list[Floats], spacing_xyz: Point
) -> Iterator[tuple[Part, tuple[slice, ...], Floats]]:
    """Each Part's bodies one after the other, in the order of drawing."""
    for part in patient.parts:
        for body in part.bodies:
            found = coverage(body, place, spacing_xyz)
            if found is not None:
                yield part, *found
