"""Distances between the surfaces of two masks, and the numbers made of them: HD95, ASSD, NSD, boundary F1.

Knows nothing of structures' names or files. Definition: DeepMind's surface-distance (Nikolov et al. 2018, arXiv
1809.04430). A surface is a set of elements, each at a corner where voxels meet (so half a voxel off the voxel centres)
and each with an area in mm² that follows from the voxels around the corner; an element's distance is that to the
nearest element of the other surface, in mm. Every mean, percentile and share below is weighted by area, so that
anisotropic voxels and staircase edges do not count more than they measure. In 2D (Z = 1) the surface is the contour
inside the slice and its elements have lengths in mm; the two faces of the slice are not surface.

Tools that take unweighted voxel centres (MONAI among them) give other numbers for HD95 and NSD; they can't be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Mask, Spacing
from medseg.evaluation.surface_elements import element_areas

_SLACK_MM = 1e-6
"""Spacing is known to six decimals; a distance this little above the tolerance lies within it."""


@dataclass(frozen=True)
class SurfaceDistances:
    """One distance (mm) and one area (mm², in 2D mm) for each element of both surfaces; no order is meant."""

    from_truth: NDArray[np.float64]
    truth_areas: NDArray[np.float64]
    from_prediction: NDArray[np.float64]
    prediction_areas: NDArray[np.float64]


def measure_surfaces(
    prediction: Mask, truth: Mask, spacing: Spacing, known: Mask | None = None
) -> SurfaceDistances | None:
    """Distances between the surfaces of two non-empty masks (Z, Y, X) on the same grid.

    Voxels outside the array count as outside the mask, so a structure cut off by the image's edge has a surface there.
    Where only some voxels are ``known``, an element of a surface counts only if every voxel around it is; None where
    that leaves one of the surfaces without any. Give crops: the work follows the array's size.
    """
    scale = spacing if truth.shape[0] > 1 else spacing[1:]
    masks = (truth, prediction) if truth.shape[0] > 1 else (truth[0], prediction[0])
    areas = element_areas(tuple(scale))
    codes = [neighbour_codes(mask) for mask in masks]
    if known is not None:
        beside_unknown = neighbour_codes(~(known if truth.shape[0] > 1 else known[0])) > 0
        codes = [np.where(beside_unknown, np.uint8(0), code) for code in codes]
        if not all(_is_border(code).any() for code in codes):
            return None
    # Flat places: finding them in one long row is several times faster than along three axes.
    truth_places, prediction_places = (np.flatnonzero(_is_border(code)) for code in codes)
    shape = codes[0].shape
    return SurfaceDistances(
        from_truth=_distances(truth_places, prediction_places, shape, scale),
        truth_areas=areas[codes[0].ravel()[truth_places]],
        from_prediction=_distances(prediction_places, truth_places, shape, scale),
        prediction_areas=areas[codes[1].ravel()[prediction_places]],
    )


def neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pattern of inside and outside around every corner of the voxel grid; each axis grows by one.

    In 3D a number of eight bits, in 2D of four: bit 0 is the voxel behind the corner along every axis, and an axis
    adds a copy of the bits so far for the voxels before the corner (x: 1 bit further up, y: 2, z: 4).
    """
    codes = np.pad(mask, 1).view(np.uint8)
    for step in range(mask.ndim):
        axis = mask.ndim - 1 - step
        before, behind = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        before[axis], behind[axis] = slice(None, -1), slice(1, None)
        codes = (codes[tuple(before)] << np.uint8(1 << step)) | codes[tuple(behind)]
    return codes


def hausdorff_mm(surfaces: SurfaceDistances, percent: float = 95.0) -> float:
    """The larger of both directions' ``percent`` percentiles of distance, weighted by area; 100 is the maximum."""
    return max(
        _percentile(surfaces.from_truth, surfaces.truth_areas, percent),
        _percentile(surfaces.from_prediction, surfaces.prediction_areas, percent),
    )


def average_distance_mm(surfaces: SurfaceDistances) -> float:
    """ASSD: the area-weighted mean distance over the elements of both surfaces together.

    So the larger surface weighs more; the plain mean of both directions' means differs where the areas differ.
    """
    total = surfaces.from_truth @ surfaces.truth_areas + surfaces.from_prediction @ surfaces.prediction_areas
    return float(total / (surfaces.truth_areas.sum() + surfaces.prediction_areas.sum()))


def surface_dice(surfaces: SurfaceDistances, tolerance_mm: float) -> float:
    """NSD: the share of both surfaces' joint area that lies within the tolerance of the other surface."""
    truth_within, prediction_within = _within(surfaces, tolerance_mm)
    total = surfaces.truth_areas.sum() + surfaces.prediction_areas.sum()
    return float((truth_within + prediction_within) / total)


def boundary_f1(surfaces: SurfaceDistances, tolerance_mm: float) -> float:
    """F1 of the surfaces: harmonic mean of precision and recall.

    Precision is the share of the predicted surface within the tolerance of the true one, recall the share of the true
    surface within the tolerance of the predicted one. NSD pools both areas before it divides, so there the larger
    surface counts more; here each counts the same, and a ragged prediction can't outweigh a smooth truth.
    """
    truth_within, prediction_within = _within(surfaces, tolerance_mm)
    recall = truth_within / surfaces.truth_areas.sum()
    precision = prediction_within / surfaces.prediction_areas.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def _within(surfaces: SurfaceDistances, tolerance_mm: float) -> tuple[float, float]:
    limit = tolerance_mm + _SLACK_MM
    truth = surfaces.truth_areas[surfaces.from_truth <= limit].sum()
    prediction = surfaces.prediction_areas[surfaces.from_prediction <= limit].sum()
    return float(truth), float(prediction)


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percent: float) -> float:
    """The smallest distance within which at least ``percent`` of the area lies; no interpolation."""
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    # A share that is met exactly must not be missed by the rounding of a sum.
    place = int(np.searchsorted(covered, covered[-1] * (percent / 100) * (1 - 1e-12)))
    return float(distances[order[min(place, len(order) - 1)]])


def _is_border(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Neither all outside (0) nor all inside (the largest code)."""
    full = 255 if codes.ndim == 3 else 15
    return (codes - np.uint8(1)) < full - 1


def _distances(
    own: NDArray[np.intp], other: NDArray[np.intp], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    """Distance from each element of ``own`` to the nearest of ``other``; both are flat places in ``shape``.

    Elements that both surfaces share need no search. For the others a tree of the points is far cheaper than a
    distance map of the whole crop, unless the surfaces fill it (noise); the weights below are measured costs.
    """
    from scipy import ndimage, spatial  # slow to import

    occupied = np.zeros(shape, dtype=bool)
    occupied.reshape(-1)[other] = True
    apart = ~occupied.ravel()[own]
    distances = np.zeros(own.size)
    sought = own[apart]
    if not sought.size:
        return distances
    if 5 * sought.size + other.size > occupied.size:
        field = ndimage.distance_transform_edt(~occupied, sampling=spacing)
        distances[apart] = np.asarray(field).ravel()[sought]
        return distances
    scale = np.array(spacing)
    points, targets = (np.stack(np.unravel_index(places, shape), axis=1) for places in (sought, other))
    tree = spatial.KDTree(targets * scale, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(points * scale)
    # From whole steps, not from the tree's differences of products: 3 * 0.1 - 2 * 0.1 is not 0.1.
    distances[apart] = np.sqrt((((points - targets[nearest]) * scale) ** 2).sum(axis=1))
    return distances
