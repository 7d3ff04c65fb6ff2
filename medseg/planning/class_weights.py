"""Class weights: how much a voxel of each class counts, from how often the Fingerprint has seen it.

Knows nothing of losses. Rules: inverse frequency; median frequency (Eigen and Fergus 2015); log-smoothed (ENet: Paszke
et al. 2016); effective number of samples (Cui et al. 2019), where a Case's voxels are the samples, since neighbouring
voxels say much the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.cases.labels import LabelTable
from medseg.planning.fingerprint import Fingerprint

ClassWeighting = Literal["none", "inverse", "median", "log", "effective"]
ClassWeights = tuple[tuple[float, ...], ...]
"""For each question that a network answers the weight of each answer: one question with all classes, or for each region
outside and inside."""

_LOG_SMOOTHING = 1.02
_BETA = 0.9999
_Counts = NDArray[np.float64]


def settle_class_weights(kind: ClassWeighting, fingerprint: Fingerprint, table: LabelTable) -> ClassWeights | None:
    """The weights of every answer, with mean 1 in each question; None for ``none``.

    A class that no Case holds counts as one voxel. Voxels that nobody annotated do not count.
    """
    if kind == "none":
        return None
    voxels = np.array([case.label_voxels for case in fingerprint.cases], dtype=np.float64)
    questions = [voxels]
    if table.regions:
        inside = [voxels[:, list(target.indices)].sum(1) for target in table.targets]
        questions = [np.stack([voxels.sum(1) - one, one], axis=1) for one in inside]
    found = []
    for counts in questions:
        weights = _RULES[kind](counts)
        found.append(tuple(float(f"{weight:.6g}") for weight in weights / weights.mean()))
    return tuple(found)


def _inverse(counts: _Counts) -> _Counts:
    return 1 / _frequencies(counts)


def _median(counts: _Counts) -> _Counts:
    """Each class's frequency is taken over the Cases that hold it."""
    seen = np.where(counts > 0, counts.sum(axis=1, keepdims=True), 0).sum(axis=0)
    frequencies = np.maximum(counts.sum(axis=0), 1) / np.maximum(seen, 1)
    return np.median(frequencies) / frequencies


def _log(counts: _Counts) -> _Counts:
    return 1 / np.log(_LOG_SMOOTHING + _frequencies(counts))


def _effective(counts: _Counts) -> _Counts:
    each = np.maximum(counts.mean(axis=0), 1)
    return (1 - _BETA) / (1 - _BETA**each)


def _frequencies(counts: _Counts) -> _Counts:
    total = np.maximum(counts.sum(axis=0), 1)
    return total / total.sum()


_RULES: dict[str, Callable[[_Counts], _Counts]] = {
    "inverse": _inverse,
    "median": _median,
    "log": _log,
    "effective": _effective,
}
