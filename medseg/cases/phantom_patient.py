"""One patient drawn from the anatomy: sizes, positions, tilts, a smooth warp; and how much each body fills each voxel.

Every random number comes from one Philox generator seeded by (seed, case), in a fixed order, so that anatomy does not
depend on the scanner. Edges are soft over one voxel in the direction of the surface's normal: partial volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg.cases.phantom_anatomy import SOFT_TISSUE, Anatomy, Body, Part, Point

Floats = NDArray[np.floating]
_WARP_MODES = 8
_WARP_LIMIT_MM = 16.0


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
    anatomy: Anatomy,
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
    moves = {part.name: np.clip(random.standard_normal(8), -2.2, 2.2) for part in anatomy.parts}
    grown = anatomy.grow(random, lesion_radius_mm)
    by_name = {part.name: part for part in anatomy.parts}
    parts: dict[str, Part] = {}
    for part in anatomy.parts:
        leader = part.moves_with or part.name
        own_bodies = grown.get(part.name, part.bodies)
        bodies = tuple(_moved(body, by_name[leader].wander_mm, moves[leader], shape) for body in own_bodies)
        brighter = part.spread * moves[part.name][7]
        intensity, *others = (float(level + brighter) for level in (part.intensity, *part.others))
        if part.enhancing:
            intensity = SOFT_TISSUE + contrast * (intensity - SOFT_TISSUE)
        if part.told_from:
            intensity = parts[part.told_from].intensity + lesion_contrast
        parts[part.name] = replace(part, intensity=intensity, others=tuple(others), bodies=bodies)
    x, y, z = (float(value) for value in scale)
    return Patient(tuple(parts.values()), (x, y, z), waves)


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
