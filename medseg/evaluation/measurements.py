"""What is said of each segmented structure: its volume, its largest diameter, its parts, its intensities.

Knows nothing of files or of the label table. The diameter is "maximum 3D diameter" of the Image Biomarker
Standardisation Initiative (IBSI L0JK): the largest distance between two vertices of the surface mesh, which lie half
way between a voxel of the structure and its neighbour outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Affine, Mask
from medseg.documents import Record

_ROWS = 512
"""Distances are computed for this many vertices at a time, so that memory stays small."""


class Intensities(Record):
    """One channel inside a structure."""

    channel: str
    mean: float
    standard_deviation: float
    minimum: float
    maximum: float


class VolumeInterval(Record):
    """Holds the true volume of a structure, as often as the rate says, over cases like the held-out ones."""

    low_ml: float
    high_ml: float
    rate: float


class Measurement(Record):
    """One structure of one Case."""

    structure: str
    voxels: int
    volume_ml: float
    largest_diameter_mm: float
    parts: int
    """Components that touch at faces, edges or corners."""
    centre_mm: tuple[float, float, float]
    """Centre of mass in world coordinates, RAS+ (x, y, z)."""
    intensities: tuple[Intensities, ...] = ()
    mean_entropy_nats: float | None = None
    """Mean over the structure of how undecided the model was; only where the entropy was asked for."""
    volume_interval: VolumeInterval | None = None
    """Only of a model that was calibrated, with enough held-out cases."""


def measure_structure(
    name: str,
    mask: Mask,
    affine: Affine,
    image: NDArray[np.number] | None = None,
    channels: Sequence[str] = (),
    entropy: NDArray[np.floating] | None = None,
    volume_interval: VolumeInterval | None = None,
) -> Measurement | None:
    """Measure one structure, ``mask`` (Z, Y, X); None where it has no voxel.

    ``image`` is (C, Z, Y, X) with the names ``channels``, ``entropy`` (Z, Y, X) in nats, both on the mask's grid.
    """
    from scipy import ndimage  # slow to import

    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return None
    box = boxes[0]
    inside = mask[box]
    voxels = int(np.count_nonzero(inside))
    place = [
        float(inside.sum(axis=tuple({0, 1, 2} - {axis})) @ np.arange(part.start, part.stop)) / voxels
        for axis, part in enumerate(box)
    ]
    centre = affine[:3, :3] @ place + affine[:3, 3]
    return Measurement(
        structure=name,
        voxels=voxels,
        volume_ml=voxels * float(abs(np.linalg.det(affine[:3, :3]))) / 1000,
        largest_diameter_mm=largest_diameter_mm(inside, affine),
        parts=int(cc3d.connected_components(np.ascontiguousarray(inside), connectivity=26, return_N=True)[1]),
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        intensities=() if image is None else tuple(
            _intensities(channel, values[box][inside]) for channel, values in zip(channels, image, strict=True)
        ),
        mean_entropy_nats=None if entropy is None else float(entropy[box][inside].mean(dtype=np.float64)),
        volume_interval=volume_interval,
    )  # fmt: skip


def _intensities(channel: str, values: NDArray[np.number]) -> Intensities:
    return Intensities(
        channel=channel,
        mean=float(values.mean(dtype=np.float64)),
        standard_deviation=float(values.std(dtype=np.float64)),
        minimum=float(values.min()),
        maximum=float(values.max()),
    )


def largest_diameter_mm(mask: Mask, affine: Affine) -> float:
    """IBSI's maximum 3D diameter of a mask (Z, Y, X) with at least one voxel; parts are taken together."""
    from scipy.spatial import ConvexHull  # slow to import
    from scipy.spatial.distance import cdist

    padded = np.pad(mask, 1)
    vertices = []
    for axis in range(3):
        # Between two neighbours of which one is inside lies a vertex of the mesh.
        crossing = np.diff(padded.astype(np.int8), axis=axis) != 0
        places = np.argwhere(crossing).astype(float)
        places[:, axis] += 0.5
        vertices.append(places)
    world = np.concatenate(vertices) @ affine[:3, :3].T
    corners = world[ConvexHull(world).vertices]
    return max(float(cdist(corners[row : row + _ROWS], corners).max()) for row in range(0, len(corners), _ROWS))
