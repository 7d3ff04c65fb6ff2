"""Several ways to segment the same Cases, compared case by case: Dice with intervals, differences and a paired test.

Knows nothing of networks. The number of one way is the mean over targets of the mean over Cases, targets that are in
neither array skipped. Differences are resampled by Cases (``medseg.evaluation.bootstrap``), the same draws for both
sides; the test is Wilcoxon's signed-rank test on the Cases' mean Dice.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.evaluation.bootstrap import interval, resampled_means

_SIGNIFICANT = 0.05
DiceTable = NDArray[np.float64]
"""(cases, targets); NaN where a target is in neither array."""


class Compared(Record):
    """One way beside the one it is compared with."""

    name: str
    dice: float
    """Mean over targets of the mean over Cases."""
    low: float | None = None
    """Lower end of its 95 % interval; null for one Case."""
    high: float | None = None
    difference: float = 0.0
    """Its Dice minus that of the reference."""
    difference_low: float | None = None
    """Lower end of the difference's 95 % interval."""
    difference_high: float | None = None
    p_value: float | None = None
    """Of Wilcoxon's signed-rank test against the reference; null for the reference, or where no Case differs."""

    @property
    def is_better_than_chance(self) -> bool:
        """Whether the interval of the difference lies above 0 and the test agrees.

        Both, because with few Cases the interval alone is too narrow: five Cases are never enough for the test.
        """
        certain = self.difference_low is not None and self.difference_low > 0
        return certain and self.p_value is not None and self.p_value < _SIGNIFICANT


def target_dice(prediction: Labels, truth: Labels, table: LabelTable) -> list[float]:
    """Dice of each target, NaN where both lack it; voxels that nobody annotated are left out."""
    known = truth != table.ignore_index if table.ignore_index is not None else None
    found = []
    for target in table.targets:
        ours, true = target.mask(prediction), target.mask(truth)
        if known is not None:
            ours = ours & known
        total = int(ours.sum()) + int(true.sum())
        found.append(2 * int((ours & true).sum()) / total if total else float("nan"))
    return found


def mean_dice(table: DiceTable) -> float:
    """Mean over targets of the mean over Cases; NaN where there is nothing to average."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of empty means
        return float(np.nanmean(np.nanmean(table, axis=0)))


def compare(tables: Mapping[str, DiceTable], reference: str) -> tuple[Compared, ...]:
    """Every way with its interval and its difference to the reference, the best first; all have the same Cases."""
    drawn = {name: _resampled(table) for name, table in tables.items()}
    compared = []
    for name, table in tables.items():
        several = len(table) > 1  # of one Case every draw is the same, which is no interval
        low, high = (interval(drawn[name]) if several else None) or (None, None)
        one = Compared(name=name, dice=mean_dice(table), low=low, high=high)
        if name != reference:
            low, high = (interval(drawn[name] - drawn[reference]) if several else None) or (None, None)
            one = one.model_copy(
                update={
                    "difference": one.dice - mean_dice(tables[reference]),
                    "difference_low": low,
                    "difference_high": high,
                    "p_value": _p_value(table, tables[reference]),
                }
            )
        compared.append(one)
    return tuple(sorted(compared, key=lambda one: -one.dice))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of tests made together, corrected for their number (Holm 1979), in the order given."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _resampled(table: DiceTable) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(resampled_means(table), axis=1)


def _p_value(first: DiceTable, second: DiceTable) -> float | None:
    from scipy.stats import wilcoxon  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        differences = np.nanmean(first, axis=1) - np.nanmean(second, axis=1)
        differences = differences[np.isfinite(differences) & (differences != 0)]
        if not len(differences):
            return None
        _, p_value = wilcoxon(differences)
        return float(p_value)  # pyright: ignore[reportArgumentType] (scipy's types do not say what it gives)
