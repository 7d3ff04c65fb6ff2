"""Which Cases are held out in which fold.

Rule: nnU-Net's, scikit-learn's KFold(n_splits=5, shuffle=True, random_state=12345) over the sorted names of the Cases;
where patients are named, over the sorted patients instead, so that a patient is never on both sides. On request the
groups are dealt so that folds are alike (``medseg.cases.stratification``). A fold beyond the list holds out a random
fifth, as nnU-Net does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from medseg.cases.dataset import Dataset
from medseg.cases.likeness import join_groups
from medseg.cases.stratification import deal
from medseg.documents import Document, Record
from medseg.errors import DatasetError, MedsegError, SettingsError


class Fold(Record):
    """One held-out group."""

    validation: tuple[str, ...]
    """Names of the Cases held out, in ascending order; all others train."""


class Folds(Document):
    """Every fold of a Dataset; written as ``folds.yaml``, and may be edited by hand."""

    kind: ClassVar[str] = "folds"
    error: ClassVar[type[MedsegError]] = DatasetError

    rule: str
    """How the folds were made."""
    seed: int
    """Seed of the shuffle."""
    cases: dict[str, str]
    """Every labelled Case and what it is grouped by: its patient, or itself; never split."""
    folds: tuple[Fold, ...]
    """Empty where there is but one patient; then only fold=full works."""

    def split(self, fold: int | Literal["full"]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(training names, validation names), each in ascending order; "full" trains on every Case.

        Raises SettingsError for a fold that can't be made, DatasetError for folds that name unknown Cases or split a
        patient (the file may have been edited).
        """
        names = sorted(self.cases)
        if fold == "full":
            return tuple(names), ()
        if fold < 0:
            raise SettingsError(f"fold={fold} should be 0 or more.")
        if not self.folds:
            raise SettingsError(
                f"All {len(names)} labelled case(s) belong to one patient, so none can be held out for fold={fold}. "
                "Train on everything with fold=full, or add cases."
            )
        held_out = set(self.folds[fold].validation) if fold < len(self.folds) else self._random_fifth(fold)
        self._check(fold, held_out)
        return tuple(x for x in names if x not in held_out), tuple(x for x in names if x in held_out)

    def _random_fifth(self, fold: int) -> set[str]:
        groups = sorted(set(self.cases.values()))
        random = np.random.RandomState(12345 + fold)  # nnU-Net's own generator and seed
        training = {groups[i] for i in random.choice(len(groups), max(1, int(len(groups) * 0.8)), replace=False)}
        return {name for name, group in self.cases.items() if group not in training}

    def _check(self, fold: int, held_out: set[str]) -> None:
        unknown = sorted(held_out - set(self.cases))
        if unknown:
            raise DatasetError(f"Fold {fold} names cases that are not in the dataset: {', '.join(unknown[:5])}.")
        groups = {self.cases[name] for name in held_out}
        split = sorted(name for name, group in self.cases.items() if group in groups and name not in held_out)
        if split:
            raise DatasetError(f"Fold {fold} splits a patient: {', '.join(split[:5])} should be held out as well.")


def make_folds(
    dataset: Dataset,
    folds: int = 5,
    seed: int = 12345,
    alike: Sequence[tuple[str, str]] = (),
    traits: Mapping[str, Iterable[str]] | None = None,
) -> Folds:
    """nnU-Net's folds over the labelled Cases; fewer where there are fewer patients than ``folds``.

    Pairs of Cases that are ``alike`` stay together, as a patient's do. With the ``traits`` of every Case (by name) the
    folds get equal shares of each trait instead. Raises SettingsError for fewer than 2 folds.
    """
    if folds < 2:
        raise SettingsError(f"folds={folds} should be at least 2.")
    groups = {case.name: case.group for case in sorted(dataset.cases, key=lambda case: case.name)}
    if len(set(groups.values())) == len(groups):
        groups = {name: name for name in groups}  # one Case a patient: nnU-Net's order is that of the names
    groups = join_groups(groups, alike)
    keys = sorted(set(groups.values()))
    count = min(folds, len(keys))
    what = "case names" if len(keys) == len(groups) else "patients"
    if count < 2:
        rule, held_out = f"too few {what} to split", []
    elif traits is None:
        rule = f"KFold(n_splits={count}, shuffle=True) over the sorted {what}"
        held_out = _shuffled(keys, count, seed)
    else:
        rule = f"{count} folds with equal shares of {', '.join(sorted(set().union(*traits.values()))) or 'nothing'}"
        held_out = _stratified(groups, traits, count, seed)
    return Folds(
        rule=rule,
        seed=seed,
        cases=groups,
        folds=tuple(
            Fold(validation=tuple(name for name, group in groups.items() if group in chosen)) for chosen in held_out
        ),
    )


def _shuffled(keys: list[str], count: int, seed: int) -> list[set[str]]:
    from sklearn.model_selection import KFold  # slow to import

    splits = KFold(n_splits=count, shuffle=True, random_state=seed).split(keys)
    return [{keys[i] for i in validation} for _, validation in splits]


def _stratified(
    groups: Mapping[str, str], traits: Mapping[str, Iterable[str]], count: int, seed: int
) -> list[set[str]]:
    counted: dict[str, Counter[str]] = {key: Counter() for key in groups.values()}
    for name, key in groups.items():
        counted[key].update(set(traits.get(name, ())))
    return deal(counted, Counter(groups.values()), count, seed)
