"""Which configurations to predict with, and the component rules that go with them; ``selection.json``.

Knows nothing of how predictions are made. Rules: nnU-Net's (mean Dice of out-of-fold predictions, every configuration
and every pair; then the largest component of all structures, then of each), with one change: a pair has to be better
than the best single configuration by more than chance, because it costs as much as both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.documents import Document
from medseg.errors import CheckpointError, MedsegError
from medseg.evaluation.comparison import Compared, DiceTable, compare, mean_dice, target_dice
from medseg.evaluation.scores import Average, Scores, StructureSummary
from medseg.inference.components import FOREGROUND, ComponentRule, apply_rule

Pair = tuple[Labels, Labels]
"""Prediction and truth of one Case, label indices ``(Z, Y, X)``."""
JOINED = " + "


class Selection(Document):
    """What ``medseg select`` found, and what ``medseg predict`` follows."""

    kind: ClassVar[str] = "selection"
    error: ClassVar[type[MedsegError]] = CheckpointError

    candidates: tuple[Compared, ...]
    """Every configuration and pair, the best first, against the best single one."""
    chosen: tuple[str, ...]
    """The configurations to predict with; the probabilities of several are averaged."""
    folds: dict[str, tuple[int, ...]]
    """The folds of each chosen configuration whose out-of-fold predictions were compared."""
    identities: dict[str, str]
    """What the networks of each chosen configuration were; another training makes the selection stale."""
    rules: tuple[ComponentRule, ...]
    """Component rules that helped, in the order in which they are applied."""
    cases: int
    """Out-of-fold predictions that were compared."""
    tolerance_mm: float
    """Of NSD in the averages."""
    average: dict[str, Average]
    """Out-of-fold metrics of what was chosen, after the rules, over structures."""
    structures: tuple[StructureSummary, ...]
    """The same by structure."""

    def averages(self) -> dict[str, object]:
        """The metrics as plain data; no single Case."""
        content = self.model_dump(mode="json", include={"tolerance_mm", "average", "structures", "cases"})
        return dict(content)


def candidates_of(configurations: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every configuration and every pair of them."""
    return (*((name,) for name in configurations), *combinations(configurations, 2))


def choose(tables: Mapping[tuple[str, ...], DiceTable]) -> tuple[tuple[str, ...], tuple[Compared, ...]]:
    """The candidate to take, and the comparison of all with the best single configuration.

    The best single one, unless a pair is better by more than chance.
    """
    singles = [candidate for candidate in tables if len(candidate) == 1]
    best = max(singles, key=lambda candidate: mean_dice(tables[candidate]))
    compared = compare({JOINED.join(candidate): table for candidate, table in tables.items()}, JOINED.join(best))
    for one in compared:
        if JOINED in one.name and one.is_better_than_chance:
            return tuple(one.name.split(JOINED)), compared
    return best, compared


def learn_rules(
    names: Sequence[str], read: Callable[[str], Pair], table: LabelTable
) -> tuple[tuple[ComponentRule, ...], DiceTable]:
    """The component rules that raise Dice on the named Cases, and the Dice after them.

    The rule for all structures is kept where the mean rises and no target falls; that of a target where its own Dice
    rises. ``read`` gives a Case's prediction and truth; they are read once for each rule.
    """
    rules: list[ComponentRule] = []

    def measured(extra: str | None) -> tuple[DiceTable, int]:
        tried = [rule.target for rule in rules] + ([extra] if extra else [])
        dice, changed = [], 0
        for name in names:
            before, truth = read(name)
            for target in tried[: len(rules)]:
                before = apply_rule(before, target, table)
            after = apply_rule(before, extra, table) if extra else before
            changed += after is not before
            dice.append(target_dice(after, truth, table))
        return np.array(dice), changed

    current, _ = measured(None)
    several = table.target_names if len(table.targets) > 1 else ()
    for target in (FOREGROUND, *several):
        tried, changed = measured(target)
        means, before = (np.array([mean_dice(one[:, [i]]) for i in range(one.shape[1])]) for one in (tried, current))
        if target == FOREGROUND:
            gain = mean_dice(tried) - mean_dice(current)
            helps = gain > 0 and not (means < before).any()
        else:
            place = table.target_names.index(target)
            gain = float(means[place] - before[place])
            helps = gain > 0
        if helps:
            rules.append(ComponentRule(target=target, gain=gain, cases=changed))
            current = tried
    return tuple(rules), current


def make_selection(
    chosen: tuple[str, ...],
    compared: tuple[Compared, ...],
    rules: tuple[ComponentRule, ...],
    folds: Mapping[str, Sequence[int]],
    identities: Mapping[str, str],
    scores: Scores,
) -> Selection:
    """All of it as one document."""
    return Selection(
        candidates=compared,
        chosen=chosen,
        folds={name: tuple(folds[name]) for name in chosen},
        identities={name: identities[name] for name in chosen},
        rules=rules,
        cases=len(scores.cases),
        tolerance_mm=scores.tolerance_mm,
        average=scores.average,
        structures=scores.structures,
    )
