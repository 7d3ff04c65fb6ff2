"""Another examination as it lies on a Case's own page: turned and shifted rigidly, sampled where it is looked at.

Knows nothing of pages. Nothing is resampled beforehand and no file is changed: a plane's voxels are looked up in the
other examination when the plane is drawn, intensities linearly, labels at the nearest voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.arrays import Affine, Spacing, Triple
from medseg.errors import MedsegError
from medseg.files import hash_content
from medseg.images.register import Alignment, align
from medseg.review.cache import OpenCase, PreparedCase
from medseg.review.case import Finding


class Sampled:
    """A volume seen on another grid ``shape``; gives an array for a plane, as an array would."""

    def __init__(self, volume: NDArray[Any], shape: Triple, matrix: Affine, order: int) -> None:
        self._volume, self.shape, self._matrix, self._order = volume, shape, matrix, order

    def __getitem__(self, place: tuple[int | slice, ...]) -> NDArray[Any]:
        """Voxels at ints and slices, one for each axis (z, y, x); 0 of labels, the least there is of an image, outside
        of the volume."""
        ranges = [
            np.arange(*part.indices(length)) if isinstance(part, slice) else np.array([part])
            for part, length in zip(place, self.shape, strict=True)
        ]
        grid = np.stack(np.meshgrid(*ranges, indexing="ij")).astype(np.float64)
        there = np.tensordot(self._matrix[:3, :3], grid, axes=1) + self._matrix[:3, 3].reshape(3, 1, 1, 1)
        outside = 0 if self._order == 0 else float(self._volume[self._volume.shape[0] // 2].min())
        dtype = self._volume.dtype if self._order == 0 else np.float32
        found = ndimage.map_coordinates(self._volume, there, dtype, self._order, "constant", outside, prefilter=False)
        kept = tuple(slice(None) if isinstance(part, slice) else 0 for part in place)
        return np.asarray(found[kept])


@dataclass(frozen=True, eq=False)
class AlignedCase:
    """What ``draw_plane`` needs of an OpenCase: the page of ``fixed``, the voxels of ``moving``."""

    fixed: OpenCase
    moving: OpenCase
    known: Alignment

    @property
    def shape(self) -> Triple:
        return self.fixed.shape

    @property
    def spacing(self) -> Spacing:
        """Millimetres (z, y, x) on the page."""
        return self.fixed.spacing

    @property
    def record(self) -> PreparedCase:
        return self.fixed.record

    @property
    def image(self) -> Sequence[Sampled]:
        """By channel."""
        return [self._sampled(channel, 1) for channel in self.moving.image]

    def labels(self, finding: Finding) -> Sampled:
        """Label indices. Raises what reading them raises."""
        return self._sampled(self.moving.labels(finding), 0)

    def map(self, path: Path) -> Sampled:
        """A map, such as of uncertainty."""
        return self._sampled(self.moving.map(path), 1)

    def _sampled(self, volume: NDArray[Any], order: int) -> Sampled:
        matrix = np.linalg.inv(self.moving.affine) @ np.array(self.known.matrix) @ self.fixed.affine
        return Sampled(volume, self.shape, matrix, order)


def aligned(fixed: OpenCase, moving: OpenCase) -> AlignedCase:
    """The other examination on the Case's page, by their first channels; found once and kept.

    Raises GeometryError where they can't be aligned.
    """
    place = fixed.folder / "aligned" / f"{hash_content([fixed.record.source, moving.record.source])[:24]}.json"
    if place.is_file():
        try:
            return AlignedCase(fixed, moving, Alignment.load(place))
        except MedsegError:
            pass  # of an older medseg: found anew
    known = align(fixed.image[0], fixed.affine, moving.image[0], moving.affine)
    known.save(place)
    return AlignedCase(fixed, moving, known)
