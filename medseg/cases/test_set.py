"""Which Cases are set aside as the test set, before any file is opened.

A Dataset may bring its test set along (``split: test``, or nnU-Net's labelsTs); here it is drawn or named. The Cases of
a patient are never divided between training and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medseg.cases.dataset import Dataset
from medseg.errors import DatasetError, SettingsError


def draw_test_set(dataset: Dataset, share: float, seed: int = 12345) -> Dataset:
    """About this share of the labelled Cases set aside at random, by patients. Raises SettingsError."""
    if not 0 < share < 1:
        raise SettingsError(f"test={share} should be a share between 0 and 1, or the names of cases.")
    groups = sorted({case.group for case in dataset.cases})
    sizes = {group: sum(case.group == group for case in dataset.cases) for group in groups}
    chosen: list[str] = []
    wanted = share * len(dataset.cases)
    for place in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[place]
        count = sum(sizes[one] for one in chosen)
        if abs(count + sizes[group] - wanted) < abs(count - wanted):
            chosen.append(group)
    names = [case.name for case in dataset.cases if case.group in set(chosen)]
    if not names or len(names) == len(dataset.cases):
        raise SettingsError(
            f"test={share} of {len(dataset.cases)} cases of {len(groups)} patient(s) leaves nothing to "
            f"{'train on' if names else 'test on'}. Choose another share, or name the cases."
        )
    return set_aside(dataset, names)


def set_aside(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The Dataset with these Cases as its test set, beside those it had. Raises SettingsError, DatasetError."""
    unknown = sorted(set(names) - {case.name for case in (*dataset.cases, *dataset.test)})
    if unknown:
        raise SettingsError(f"test= names cases that have no labels or are not there: {', '.join(unknown[:8])}.")
    moved = tuple(replace(case, split="test") for case in dataset.cases if case.name in set(names))
    kept = tuple(case for case in dataset.cases if case.name not in set(names))
    if not kept:
        raise SettingsError("test= names every case, so nothing is left to train on.")
    test = tuple(sorted((*dataset.test, *moved), key=lambda case: case.name))
    return require_apart(replace(dataset, cases=kept, test=test))


def require_apart(dataset: Dataset) -> Dataset:
    """The same Dataset. Raises DatasetError where a patient is on both sides."""
    trained = {case.patient: case.name for case in dataset.cases if case.patient is not None}
    for case in dataset.test:
        if case.patient in trained:
            raise DatasetError(
                f"The patient of the test case '{case.name}' is also in the training case '{trained[case.patient]}'. "
                "Put both on one side."
            )
    return dataset
