"""The abdomen of phantoms: which bodies it is made of, where they lie, how bright they are and how much they vary.

Knows no voxels. The origin lies between the kidneys. Rough adult anatomy with the Hounsfield units of a portal-venous
CT.
"""

from __future__ import annotations

import numpy as np

from medseg.cases.phantom_anatomy import Anatomy, Bodies, Body, Part, both_sides

_AIR = -1000.0
"""HU around the patient."""
_LOOPS = 22


_LEVELS = range(-175, 211, 35)
_VERTEBRAE = tuple(Body((0, -50, z), (23, 18, 14.5), 4.0) for z in _LEVELS)
_DISCS = tuple(Body((0, -50, z + 17.5), (21, 16, 4), 4.0) for z in _LEVELS)
_POSTERIOR = tuple(Body((0, -86, z - 5), (5, 14, 12), 3.0) for z in _LEVELS)
_ARCHES = tuple(side for z in _LEVELS for side in both_sides(Body((17, -73, z), (12, 8, 11), 3.0)))
_RIBS = tuple(
    Body(
        (float(side * 132 * np.cos(angle)), float(92 * np.sin(angle)), float(level + 26 * np.sin(angle) * -1)),
        (7, 7, 6),
    )
    for side in (-1, 1)
    for angle in np.deg2rad((-62.0, -38.0, -14.0, 10.0, 34.0))
    for level in (24, 58, 92, 126)
)
_RIGHT_KIDNEY, _LEFT_KIDNEY = (
    Body((60, -46, -30), (27, 25, 53), 2.2, -9),
    Body((-60, -46, -12), (27, 25, 53), 2.2, 9),
)

_PARTS: tuple[Part, ...] = (
    Part("skin", -98, (Body((0, 0, 0), (160, 116, 600), 2.5),)),
    Part("wall", 52, (Body((0, -4, 0), (142, 98, 600), 2.5),)),
    Part("cavity", -92, (Body((0, 4, 0), (129, 84, 600), 2.5),), spread=8),
    Part("back muscles", 54, both_sides(Body((34, -80, 0), (27, 18, 600), 2.4))),
    Part("psoas", 56, both_sides(Body((40, -46, -105), (17, 17, 75)))),
    Part("lungs", -830, both_sides(Body((68, -6, 172), (60, 74, 84))), spread=25, wander_mm=4),
    Part("ribs", 320, _RIBS, spread=40),
    Part("stomach", 25, (Body((-56, 34, 42), (44, 32, 38), 2.0, -20),), spread=15, wander_mm=7),
    Part("gas", -850, (Body((-58, 52, 52), (24, 9, 18)),), spread=40, moves_with="stomach"),
    Part("bowel", 35, ()),  # loops are drawn at random
    Part("spine", 185, (*_VERTEBRAE, *_DISCS, *_POSTERIOR, *_ARCHES), spread=25),
    Part("discs", 90, _DISCS, spread=8, belongs_to="spine"),
    Part("canal", 30, (Body((0, -72, 0), (8, 7, 600)),)),
    Part("aorta", 150, (Body((-10, -19, 0), (10, 10, 600)),), spread=15, wander_mm=2, enhancing=True),
    Part("cava", 138, (Body((22, -20, 0), (13, 10, 600)),), spread=15, wander_mm=2, enhancing=True),
    Part("pancreas", 88, (Body((-12, 14, 6), (54, 11, 13), 2.0, -12),), spread=10, wander_mm=5, enhancing=True),
    Part("spleen", 120, (Body((-96, -34, 52), (23, 42, 48), 2.2, 14),), spread=10, wander_mm=6, enhancing=True),
    Part(
        "liver",
        108,
        (Body((66, 0, 42), (60, 74, 74), 2.4, 6), Body((20, 36, 62), (72, 38, 42), 2.2, 14)),
        spread=10,
        wander_mm=5,
        enhancing=True,
    ),
    Part("lesion", 0, (), moves_with="liver", belongs_to="liver", told_from="liver"),  # drawn at random
    Part("gall bladder", 8, (Body((46, 44, -6), (14, 16, 22)),), wander_mm=5),
    Part("right kidney", 148, (_RIGHT_KIDNEY,), spread=14, wander_mm=5, enhancing=True),
    Part("right sinus", -40, (Body((42, -40, -30), (15, 9, 19)),), spread=20, moves_with="right kidney"),
    Part("left kidney", 148, (_LEFT_KIDNEY,), spread=14, wander_mm=5, enhancing=True),
    Part("left sinus", -40, (Body((-42, -40, -12), (15, 9, 19)),), spread=20, moves_with="left kidney"),
)
"""In the order of drawing. Sizes in mm are half extents."""


def _grow(random: np.random.Generator, radius_mm: tuple[float, float]) -> dict[str, Bodies]:
    """The lesion and the bowel."""
    liver = next(part for part in _PARTS if part.name == "liver")
    return {"lesion": (_draw_lesion(random, liver.bodies[0], radius_mm),), "bowel": _draw_loops(random)}


def _draw_lesion(random: np.random.Generator, liver: Body, radius_mm: tuple[float, float]) -> Body:
    """An ellipsoid well inside the liver's right lobe, clear of the kidney below it."""
    direction = random.standard_normal(3)
    place = 0.55 * random.uniform() ** (1 / 3) * direction / np.linalg.norm(direction)
    place[2] = abs(place[2])
    x, y, z = (float(c + p * a) for c, p, a in zip(liver.centre, place, liver.axes, strict=True))
    mean_mm = random.uniform(min(radius_mm), max(radius_mm))
    a, b, c = (float(mean_mm * factor) for factor in random.uniform(0.85, 1.15, 3))
    return Body((x, y, z), (a, b, c))


def _draw_loops(random: np.random.Generator) -> Bodies:
    """Bowel in front of the kidneys and below the stomach."""
    loops = []
    for x, y, z, a, b, c, turn in random.uniform(0, 1, (_LOOPS, 7)):
        centre = (float(-105 + 210 * x), float(-5 + 62 * y), float(-150 + 125 * z))
        loops.append(Body(centre, (float(12 + 22 * a), float(10 + 10 * b), float(10 + 16 * c)), 2.0, float(180 * turn)))
    return tuple(loops)


ABDOMEN = Anatomy(
    parts=_PARTS,
    structures=("spine", "spleen", "right kidney", "left kidney", "liver", "lesion"),
    around=(_AIR,),
    lowest=-1024.0,
    grow=_grow,
)
