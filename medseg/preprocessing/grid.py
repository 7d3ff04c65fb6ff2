"""How a prepared array lies in its file: the way there, and the numbers needed for the way back.

Orientation and the Plan's axis order are one signed permutation; then a crop box; then a resampled shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Spacing, Triple
from medseg.documents import Record


class Grid(Record):
    """From the array as stored in the file to the array as prepared for the network, and back."""

    file_shape: Triple
    """Voxels (z, y, x) as stored in the file."""
    permutation: Triple
    """``permutation[i]`` is the file axis that becomes network axis i."""
    flips: tuple[bool, bool, bool]
    """Whether network axis i runs against its file axis."""
    crop_lower: Triple
    """First voxel of the crop box, network axes, before resampling."""
    cropped_shape: Triple
    """Size of the crop box, network axes, before resampling."""
    cropped_spacing: Spacing
    """mm of the file's voxels, network axes."""
    prepared_shape: Triple
    """Size after resampling."""
    prepared_spacing: Spacing
    """mm after resampling: the configuration's spacing (in 2D the through-plane axis keeps its own)."""

    @property
    def oriented_shape(self) -> Triple:
        """The file's shape in network axes."""
        a, b, c = (self.file_shape[axis] for axis in self.permutation)
        return a, b, c

    def orient(self, array: NDArray[Any]) -> NDArray[Any]:
        """File axes -> network axes, (C, Z, Y, X) or (Z, Y, X); a view."""
        return orient(array, self.permutation, self.flips)

    def restore_orientation(self, array: NDArray[Any]) -> NDArray[Any]:
        """Network axes -> file axes, the inverse of ``orient``; a view."""
        array = _flip(array, self.flips)
        lead = array.ndim - 3
        return array.transpose([*range(lead), *(lead + int(axis) for axis in np.argsort(self.permutation))])


def orient(array: NDArray[Any], permutation: Triple, flips: tuple[bool, bool, bool]) -> NDArray[Any]:
    """Apply a signed permutation to the last three axes; a view."""
    lead = array.ndim - 3
    return _flip(array.transpose([*range(lead), *(lead + axis for axis in permutation)]), flips)


def _flip(array: NDArray[Any], flips: tuple[bool, bool, bool]) -> NDArray[Any]:
    steps = tuple(slice(None, None, -1) if flipped else slice(None) for flipped in flips)
    return array[(..., *steps)]
