"""The head of phantoms: a brain with a tumour in three layers, as two MR sequences show it.

Knows no voxels. The origin lies in the middle of the brain. Rough adult sizes; intensities are those of a T1-weighted
image after contrast and of a FLAIR image, in arbitrary units. The tumour is the one of the BraTS challenge (Menze et
al. 2015): oedema around an enhancing rim around necrosis.
"""

from __future__ import annotations

import numpy as np

from medseg.cases.phantom_anatomy import Anatomy, Bodies, Body, Part, Point, both_sides

_WHITE_MATTER = Body((0, -4, 4), (54, 70, 60), 2.3)
_DEEP = 0.62
"""How far out the tumour's centre may lie, as a share of the white matter."""
_MIDLINE_MM = 16.0
_LOBES = 3

_PARTS: tuple[Part, ...] = (
    Part("scalp", 95, (Body((0, 0, 0), (80, 98, 92), 2.2),), others=(70,), spread=8),
    Part("skull", 12, (Body((0, 0, 0), (75, 93, 87), 2.2),), others=(10,)),
    Part("fluid", 22, (Body((0, 0, 0), (69, 87, 81), 2.2),), others=(16,)),
    Part("grey matter", 62, (Body((0, -2, 2), (65, 83, 75), 2.3),), others=(84,)),
    Part("white matter", 84, (_WHITE_MATTER,), others=(62,)),
    Part("ventricles", 22, both_sides(Body((13, 2, 8), (8, 30, 12), 2.0, 10)), others=(16,), wander_mm=2),
    Part("oedema", 66, (), others=(128,), spread=6),
    Part("enhancing", 138, (), others=(104,), spread=8, belongs_to="oedema", enhancing=True),
    Part("necrosis", 40, (), others=(96,), belongs_to="enhancing"),
)


def _grow(random: np.random.Generator, radius_mm: tuple[float, float]) -> dict[str, Bodies]:
    """A tumour in one hemisphere: lobes of oedema, and within them the rim and what it holds."""
    direction = random.standard_normal(3)
    place = _DEEP * random.uniform() ** (1 / 3) * direction / np.linalg.norm(direction) * _WHITE_MATTER.axes
    place += _WHITE_MATTER.centre
    place[0] = np.copysign(max(abs(place[0]), _MIDLINE_MM), place[0])
    whole_mm = random.uniform(min(radius_mm), max(radius_mm))
    core_mm = whole_mm * random.uniform(0.55, 0.72)
    inner_mm = core_mm * random.uniform(0.5, 0.68)
    lobes = [_blob(random, place, whole_mm, 0.0)]
    lobes += [_blob(random, place, 0.75 * whole_mm, 0.55 * whole_mm) for _ in range(_LOBES)]
    core = place + random.uniform(-0.12, 0.12, 3) * whole_mm
    return {
        "oedema": tuple(lobes),
        "enhancing": (_blob(random, core, core_mm, 0.0),),
        "necrosis": (_blob(random, core, inner_mm, 0.1 * core_mm),),
    }


def _blob(random: np.random.Generator, place: np.ndarray, radius_mm: float, aside_mm: float) -> Body:
    """An ellipsoid of about this radius, up to so far aside."""
    x, y, z = (float(value) for value in place + random.uniform(-1, 1, 3) * aside_mm)
    a, b, c = (float(radius_mm * factor) for factor in random.uniform(0.85, 1.15, 3))
    axes: Point = (a, b, c)
    return Body((x, y, z), axes, 2.0, float(random.uniform(-30, 30)))


HEAD = Anatomy(
    parts=_PARTS,
    structures=("oedema", "enhancing", "necrosis", "ventricles"),
    around=(0.0, 0.0),
    lowest=0.0,
    grow=_grow,
)
