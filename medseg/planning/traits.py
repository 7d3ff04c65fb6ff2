"""Of what each fold should have its share: rare structures, small and large ones, and the strata that users name.

Knows nothing of how folds are dealt (``medseg.cases.folds``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain

import numpy as np

from medseg.cases.dataset import Dataset
from medseg.cases.folds import Folds
from medseg.planning.fingerprint import Fingerprint

_SIZES = ("small", "medium", "large")


def traits_of(fingerprint: Fingerprint, dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The traits of every Case by name: its stratum, structures that not every Case has, and the third of the Cases
    to which it belongs by the volume of all structures together."""
    strata = {case.name: case.stratum for case in dataset.cases}
    voxels = np.array([case.label_voxels[1:] for case in fingerprint.cases], dtype=np.float64)
    telling = [index for index, column in enumerate((voxels > 0).T) if 0 < column.sum() < len(column)]
    volumes = voxels.sum(axis=1) * [np.prod(case.spacing) for case in fingerprint.cases]
    thirds = np.searchsorted(np.quantile(volumes, (1 / 3, 2 / 3)), volumes)
    found = {}
    for case, present, third in zip(fingerprint.cases, voxels > 0, thirds, strict=True):
        traits = [f"{_SIZES[third]} structures", *(fingerprint.labels[1 + i] for i in telling if present[i])]
        stratum = strata.get(case.name)
        found[case.name] = (*traits, *([f"stratum {stratum}"] if stratum is not None else []))
    return found


def share_of_folds(folds: Folds, traits: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[int, ...]]:
    """How many held-out Cases of each fold have each trait, and how many there are (``cases``)."""
    counts = [Counter(chain.from_iterable(traits[name] for name in fold.validation)) for fold in folds.folds]
    names = sorted(set().union(*counts))
    held_out = {"cases": tuple(len(fold.validation) for fold in folds.folds)}
    return held_out | {name: tuple(count[name] for count in counts) for name in names}
