"""A few thousand voxels that stand for all voxels of a Case: drawn while its rows stream by, the same ones every time.

Knows nothing of what they are used for. Voxels in doubt (the background's probability below 0.99, or a region's above
0.01) are drawn separately from the rest, because they are few and decide; each voxel carries the number of voxels that
it stands for, so that weighted means are those of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from medseg.files import hash_content

IN_DOUBT = 0.01
VOXELS = 2000
"""Of each kind."""


@dataclass(frozen=True)
class VoxelSample:
    """Voxels of one or several Cases."""

    probabilities: Float[np.ndarray, "K N"]
    truth: NDArray[np.integer]
    """Label index of each, (N,)."""
    weight: Float[np.ndarray, " N"]
    """How many voxels each one stands for."""


def join(samples: list[VoxelSample]) -> VoxelSample:
    """The voxels of several Cases together."""
    return VoxelSample(
        np.concatenate([one.probabilities for one in samples], axis=1),
        np.concatenate([one.truth for one in samples]),
        np.concatenate([one.weight for one in samples]),
    )


@dataclass(frozen=True)
class _Drawn:
    numbers: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    truth: NDArray[np.integer]

    def of(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> _Drawn:
        return _Drawn(self.numbers[which], self.probabilities[:, which], self.truth[which])

    def and_also(self, other: _Drawn) -> _Drawn:
        return _Drawn(
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.probabilities, other.probabilities], axis=1),
            np.concatenate([self.truth, other.truth]),
        )


class VoxelSampler:
    """Keeps the voxels that have drawn the smallest random numbers, as many of each kind as ``voxels``."""

    def __init__(self, case: str, is_exclusive: bool, voxels: int = VOXELS) -> None:
        """``is_exclusive`` says whether the first probability is that of the background, and all sum to 1."""
        self._random = np.random.Generator(np.random.Philox(int(hash_content(case)[:16], 16)))
        self._is_exclusive, self._voxels = is_exclusive, voxels
        self._kept: dict[bool, _Drawn] = {}
        self._seen = {True: 0, False: 0}

    def add(self, probabilities: Float[np.ndarray, "K N"], truth: NDArray[np.integer]) -> None:
        """Take voxels in, each with its label index."""
        every = _Drawn(self._random.random(truth.size), probabilities.astype(np.float32), truth)
        doubt = in_doubt(probabilities, self._is_exclusive)
        for kind in (True, False):
            found = every.of(doubt == kind)
            self._seen[kind] += found.truth.size
            found = self._kept[kind].and_also(found) if kind in self._kept else found
            self._kept[kind] = found.of(np.argsort(found.numbers, kind="stable")[: self._voxels])

    def sample(self) -> VoxelSample:
        """What was drawn so far."""
        return join(
            [
                VoxelSample(
                    kept.probabilities, kept.truth, np.full(kept.truth.size, self._seen[kind] / max(kept.truth.size, 1))
                )
                for kind, kept in self._kept.items()
            ]
        )


def in_doubt(probabilities: Float[np.ndarray, "K N"], is_exclusive: bool) -> NDArray[np.bool_]:
    """Voxels that may well be in a structure."""
    return probabilities[0] < 1 - IN_DOUBT if is_exclusive else probabilities.max(axis=0) > IN_DOUBT
