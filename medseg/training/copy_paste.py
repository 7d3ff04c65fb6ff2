"""A component of a rare structure is copied from one Case into a patch of another.

The idea is that of Ghiasi et al. 2021 and, for tumours, of Yang et al. 2021 (TumorCP):
it goes where the same tissue lies that surrounded it, its brightness is shifted to what is around it there, and its
border is blended over one voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, generate_binary_structure

from medseg.arrays import Labels, Mask, Triple
from medseg.cases.labels import LabelTable
from medseg.planning.plan import SamplingPlan
from medseg.preprocessing.store import PreparedCase
from medseg.training.open_cases import Component, OpenCases, component_mask
from medseg.training.sampling import Sampler, rare_targets

_TRIES = 10
_BLEND = 0.6
_FARTHEST = 1.0
"""In normalised intensities: how much the surroundings there may differ from those it came from."""
_LEAST_FIT = 0.9
"""Share of the component that must fall on the tissue that surrounded it."""
_NEIGHBOURS = generate_binary_structure(3, 3)


class CopyPaste:
    """Copies components of the Plan's rare targets from the Cases that hold them into patches."""

    def __init__(
        self, plan: SamplingPlan, table: LabelTable, sampler: Sampler, cases: OpenCases, patch: Triple, initial: Triple
    ) -> None:
        rare = rare_targets(table, plan)
        self.share, self.table, self.cases = plan.copy_paste, table, cases
        self._sources = [(target, sampler.holders[target]) for target in rare if self.share and sampler.holders[target]]
        self._largest = (max(patch[0] // 2, 1), patch[1] // 2, patch[2] // 2)
        self._middle = tuple(slice((i - p) // 2, (i - p) // 2 + p) for i, p in zip(initial, patch, strict=True))

    def __call__(
        self, image: NDArray[np.float32], labels: Labels, previous: Labels | None, random: np.random.Generator
    ) -> None:
        """Change, with the planned probability, a patch's image (C, Z, Y, X) and labels (Z, Y, X) in place.

        ``previous`` are the labels of the configuration before, in a cascade.
        """
        if random.random() >= self.share or not self._sources:
            return
        target, holders = self._sources[random.integers(len(self._sources))]
        name = holders[random.integers(len(holders))]
        parts = self.cases.components(name, target)
        piece = self._piece(self.cases.case(name), parts[random.integers(len(parts))], target)
        where = None if piece is None else paste(image, labels, piece, self._middle, random)
        if where is not None and previous is not None:
            previous[where] = labels[where]

    def _piece(self, case: PreparedCase, part: Component, target: int) -> Piece | None:
        """A component with what surrounds it; None where it is too large for a patch or nothing surrounds it."""
        box = _with_margin(part.box, case.labels.shape)
        size = tuple(side.stop - side.start for side in box)
        if any(length > most for length, most in zip(size, self._largest, strict=True)):
            return None
        mask = np.zeros(size, bool)
        inner = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part.box, box, strict=True))
        mask[inner] = component_mask(case.labels, part, target, self.table)
        return make_piece(np.array(case.image[(..., *box)]), np.array(case.labels[box]), mask, self.table.ignore_index)


@dataclass(frozen=True)
class Piece:
    """A component with a voxel of its surroundings on every side where there is one."""

    image: NDArray[np.float32]
    """(C, Z, Y, X)."""
    labels: Labels
    mask: Mask
    """Where the component lies."""
    host: int
    """The label index that surrounds most of it."""
    around: NDArray[np.float64]
    """Mean intensity of what surrounds it, by channel."""


def make_piece(image: NDArray[np.float32], labels: Labels, mask: Mask, ignore: int | None) -> Piece | None:
    """A Piece from a box of a Case, image (C, Z, Y, X); None where nothing annotated surrounds the component."""
    shell = binary_dilation(mask, _NEIGHBOURS) & ~mask
    if ignore is not None:
        shell &= labels != ignore
    if not shell.any():
        return None
    host = int(np.bincount(labels[shell]).argmax())
    around = image[:, shell & (labels == host)].mean(axis=1, dtype=np.float64)
    return Piece(image, labels, mask, host, around)


def paste(
    image: NDArray[np.float32], labels: Labels, piece: Piece, inner: tuple[slice, ...], random: np.random.Generator
) -> Mask | None:
    """Paste in place into image (C, Z, Y, X) and labels (Z, Y, X), centred within ``inner``, where it finds its host.

    Returns where; None where no place that was tried fits.
    """
    size = piece.mask.shape
    places = np.argwhere(labels[inner] == piece.host)
    if not len(places):
        return None
    offset = np.array([part.start for part in inner])
    for _ in range(_TRIES):
        start = places[random.integers(len(places))] + offset - np.array(size) // 2
        if (start < 0).any() or (start + size > labels.shape).any():
            continue
        z, y, x = (slice(int(a), int(a) + n) for a, n in zip(start, size, strict=True))
        if _put(image[:, z, y, x], labels[z, y, x], piece):
            where = np.zeros(labels.shape, bool)
            where[z, y, x] = piece.mask & (labels[z, y, x] == piece.labels)
            return where
    return None


def _put(image: NDArray[np.float32], labels: Labels, piece: Piece) -> bool:
    """Into a box of the piece's size; False, and nothing is changed, where it does not fit."""
    host = labels == piece.host
    if (host & piece.mask).sum() < _LEAST_FIT * piece.mask.sum():
        return False
    near = host & ~piece.mask
    if not near.any():
        return False
    shift = image[:, near].mean(axis=1, dtype=np.float64) - piece.around
    if (np.abs(shift) > _FARTHEST).any():
        return False
    put = piece.mask & host
    share = np.maximum(gaussian_filter(put.astype(np.float32), _BLEND), put * 0.5) * host
    share /= max(float(share.max()), 1e-6)
    moved = piece.image + shift.astype(np.float32)[:, None, None, None]
    image += share * (moved - image)
    labels[put] = piece.labels[put]
    return True


def _with_margin(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """A component's box with a voxel more on every side, inside the Case."""
    z, y, x = (slice(max(p.start - 1, 0), min(p.stop + 1, n)) for p, n in zip(box, shape, strict=True))
    return z, y, x
