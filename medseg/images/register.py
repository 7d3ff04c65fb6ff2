"""Where one image of a patient lies in another one of the same patient: six numbers, a turn and a shift.

Knows nothing of files or pages. Mattes' mutual information of coarse copies, from coarse to fine, begun from the best
of several guesses: the same place in the scanner, the images' middles on one another, their centres of mass on one
another, and each turned to every side (SimpleITK; Mattes et al. 2003). The same images give the same numbers but for
rounding; images that do not belong together are refused. It is rigid: what bends, breathes or was taken out does not
follow.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name that its whole documentation uses)
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize

from medseg.arrays import Affine
from medseg.documents import Document
from medseg.errors import GeometryError

_LONGEST = 96
"""Voxels per axis of the copies that are compared."""
_BINS = 32
_SHARE = 0.25
"""Of the voxels, that are looked at in each step."""
_STEPS = 100
_UNITS = np.array([np.radians(1)] * 3 + [2.0] * 3)
"""First steps of the search for the last improvement: degrees and millimetres."""
_TRIES = 200
_TURN = np.radians(10)
"""Of the guesses; a step along the slope finds the way from half of it."""
_FINALISTS = 3
_LARGEST_TURN = 30.0
"""Degrees; phantoms laid upside down were up to 0.59 alike (see below)."""
_LEAST_SIMILARITY = 0.1
"""Share of what the first image tells of itself. Where the two belonged together 0.22 and more was measured, turned and
cut images of other spacing included; where the search went wrong 0.04."""


class Alignment(Document):
    """The rigid transform from world millimetres of the first image to those of the second."""

    kind: ClassVar[str] = "alignment"

    matrix: tuple[tuple[float, ...], ...]
    """4x4."""
    turn_degrees: float
    shift_mm: float
    """Of the first image's middle."""
    overlap: float
    """Share of the first image that lies inside the second."""
    similarity: float
    """Mutual information, times the overlap, as a share of what the first image tells of itself."""


def align(
    first: NDArray[np.generic], first_affine: Affine, second: NDArray[np.generic], second_affine: Affine
) -> Alignment:
    """The Alignment of two images ``(Z, Y, X)``; an affine maps (z, y, x, 1) to millimetres. Takes up to half a minute.

    Raises GeometryError for images of a few slices or without contrast, and where little of one is found in the other.
    """
    if min(first.shape) < 4 or min(second.shape) < 4:
        raise GeometryError("Images of a few slices can't be aligned: at least four on every axis are needed.")
    fixed, moving = _coarse(first, first_affine), _coarse(second, second_affine)
    own = _similarity(fixed, fixed, _still(fixed))
    if own <= 0:
        raise GeometryError("An image without contrast can't be aligned.")
    levels = _levels(fixed)
    tried = [_improved(fixed, moving, guess, levels[:1]) for guess in _guesses(fixed, moving)]
    best = sorted(tried, key=lambda one: -_likeness(fixed, moving, one))[:_FINALISTS]
    refined = [_improved(fixed, moving, one, levels[1:]) for one in best]
    found = _settled(fixed, moving, max(refined, key=lambda one: _likeness(fixed, moving, one)))
    matrix, similarity = _matrix(found), _likeness(fixed, moving, found) / own
    if similarity < _LEAST_SIMILARITY:
        raise GeometryError(
            f"The two images could not be aligned: of what one shows only {similarity:.0%} was found in the other. "
            "They may be of different parts of the body, or of different patients."
        )
    middle = first_affine @ [*((n - 1) / 2 for n in first.shape), 1]
    shift = float(np.linalg.norm((matrix @ middle - middle)[:3]))
    return Alignment(
        matrix=tuple(tuple(float(value) for value in row) for row in matrix),
        turn_degrees=_turn(found),
        shift_mm=shift,
        overlap=_overlap(fixed, moving, matrix),
        similarity=similarity,
    )


def _coarse(array: NDArray[np.generic], affine: Affine) -> sitk.Image:
    """Means of blocks, about as many millimetres long on every axis, with their place."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    edge = max(length * mm for length, mm in zip(array.shape, spacing, strict=True)) / _LONGEST
    z, y, x = (int(np.clip(round(edge / mm), 1, length // 4)) for mm, length in zip(spacing, array.shape, strict=True))
    depth, height, width = (length // step for length, step in zip(array.shape, (z, y, x), strict=True))
    small = np.empty((depth, height, width), np.float32)
    for index in range(depth):
        block = np.asarray(array[index * z : (index + 1) * z, : height * y, : width * x], np.float32)
        small[index] = block.reshape(z, height, y, width, x).mean(axis=(0, 2, 4))
    image = sitk.GetImageFromArray(small)
    steps = np.array([z, y, x])
    coarse = affine[:3, :3] * steps
    lengths = np.linalg.norm(coarse, axis=0)
    image.SetOrigin((affine @ [*((steps - 1) / 2), 1])[:3].tolist())
    image.SetSpacing(lengths[::-1].tolist())
    image.SetDirection((coarse / lengths)[:, ::-1].ravel().tolist())
    return image


def _levels(fixed: sitk.Image) -> list[int]:
    """By how much the copies are shrunk, from coarse to fine; a slab stays at least a dozen slices thick."""
    return [factor for factor in (4, 2, 1) if factor == 1 or min(fixed.GetSize()) >= 12 * factor]


def _improved(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform, levels: list[int]
) -> sitk.Euler3DTransform:
    """The transform after steps along the slope of the similarity; the start where there is none."""
    if not levels:
        return start
    method, found = _method(), sitk.Euler3DTransform(start)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0,
        minStep=1e-3,
        numberOfIterations=_STEPS,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-9,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(levels)
    method.SetSmoothingSigmasPerLevel([factor / 2 for factor in levels])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
    method.SetInitialTransform(found, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # on the way too few voxels lay in both
        return start
    return found


def _settled(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """The best transform nearby, overlap included, which the slope knows nothing of (a simplex, Nelder & Mead 1965)."""
    origin = np.array(start.GetParameters())

    def moved(by: NDArray[np.float64]) -> sitk.Euler3DTransform:
        found = sitk.Euler3DTransform(start)
        found.SetParameters((origin + by * _UNITS).tolist())
        return found

    corners = np.vstack([np.zeros(6), np.eye(6)])
    settings = {"initial_simplex": corners, "maxfev": _TRIES, "xatol": 0.02, "fatol": 1e-5}
    best = minimize(
        lambda by: -_likeness(fixed, moving, moved(by)), np.zeros(6), method="Nelder-Mead", options=settings
    )
    return moved(best.x)


def _method() -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # the viewer serves others meanwhile
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SHARE, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _still(fixed: sitk.Image) -> sitk.Euler3DTransform:
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    return sitk.Euler3DTransform(middle)


def _guesses(fixed: sitk.Image, moving: sitk.Image) -> list[sitk.Euler3DTransform]:
    """Three places, each straight and turned about each axis in both directions."""
    kinds = (sitk.CenteredTransformInitializerFilter.GEOMETRY, sitk.CenteredTransformInitializerFilter.MOMENTS)
    centred = (sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), kind) for kind in kinds)
    guesses = []
    for place in (_still(fixed), *(sitk.Euler3DTransform(one) for one in centred)):
        for turn in (np.zeros(3), *_TURN * np.eye(3), *-_TURN * np.eye(3)):
            guess = sitk.Euler3DTransform(place)
            guess.SetRotation(*turn)
            guesses.append(guess)
    return guesses


def _similarity(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Euler3DTransform) -> float:
    """Mutual information, by the share of the first image that lies in the second: a corner is easily alike."""
    method = _method()
    method.SetInitialTransform(sitk.Euler3DTransform(transform))
    try:
        shared = -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # hardly any voxel lies in both
        return 0.0
    return shared * _overlap(fixed, moving, _matrix(transform))


def _likeness(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Euler3DTransform) -> float:
    """The similarity; 0 of a turn by which nobody lies in a scanner: a round body is alike from many sides."""
    return _similarity(fixed, moving, transform) if _turn(transform) <= _LARGEST_TURN else 0.0


def _turn(transform: sitk.Euler3DTransform) -> float:
    """Degrees."""
    matrix = np.reshape(transform.GetMatrix(), (3, 3))
    return float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))))


def _matrix(transform: sitk.Euler3DTransform) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.array(transform.GetCenter())
    matrix[:3, 3] = centre + transform.GetTranslation() - matrix[:3, :3] @ centre
    return matrix


def _overlap(fixed: sitk.Image, moving: sitk.Image, matrix: Affine) -> float:
    """Share of the first image's voxels that lie inside the second."""
    index = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 16) for n in fixed.GetSize()), indexing="ij"), axis=-1)
    there = np.linalg.inv(_affine(moving)) @ matrix @ _affine(fixed)
    found = index.reshape(-1, 3) @ there[:3, :3].T + there[:3, 3]
    return float(((found >= -0.5) & (found <= np.array(moving.GetSize()) - 0.5)).all(axis=1).mean())


def _affine(image: sitk.Image) -> Affine:
    """From (x, y, z, 1) of SimpleITK's index to millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine
