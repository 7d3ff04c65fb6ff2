"""The turn that lays a stored array on the page: head to foot, front to back, patient's right to left.

Knows nothing of files. Then slice k of each axis is a plane that is shown as it lies: axial (0), coronal (1), sagittal
(2), the patient's right on the left of the page (radiological convention). Without a known orientation nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Affine, Triple
from medseg.images.orientation import to_canonical
from medseg.images.volume import Volume


@dataclass(frozen=True)
class Turn:
    """A signed permutation of the axes (z, y, x) of a file."""

    order: Triple = (0, 1, 2)
    """``order[i]`` is the file's axis that becomes axis i of the page."""
    reverse: tuple[bool, bool, bool] = (False, False, False)
    """Whether axis i of the page then runs against the file's."""

    @classmethod
    def of(cls, volume: Volume) -> Turn:
        """The turn of a Volume; none where it does not say how it lies in the patient."""
        if not volume.orientation_known:
            return cls()
        order, flips = to_canonical(volume.affine)
        # Canonical axes increase towards superior, anterior and right; the page wants the opposite of each.
        up, front, right = (not flip for flip in flips)
        return cls(order, (up, front, right))

    def to_page(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of ``(..., Z, Y, X)`` of the file as it lies on the page."""
        before = array.ndim - 3
        turned = np.transpose(array, (*range(before), *(before + axis for axis in self.order)))
        return turned[(..., *self._slices())]

    def to_file(self, array: NDArray[Any]) -> NDArray[Any]:
        """The way back: a view of ``(..., Z, Y, X)`` of the page in the file's axes."""
        before = array.ndim - 3
        inverse = (before + axis for axis in np.argsort(self.order))
        return np.transpose(array[(..., *self._slices())], (*range(before), *inverse))

    def affine(self, affine: Affine, shape: Triple) -> Affine:
        """From (z, y, x, 1) of the page to world millimetres, given the file's affine and shape."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for axis, (own, back) in enumerate(zip(self.order, self.reverse, strict=True)):
            matrix[own, axis] = -1 if back else 1
            matrix[own, 3] = shape[own] - 1 if back else 0
        return affine @ matrix

    def _slices(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(None, None, -1) if back else slice(None) for back in self.reverse)
        return z, y, x
