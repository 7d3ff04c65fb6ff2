"""What held-out Cases teach about a model's probabilities, as numbers that travel with it: ``calibration.json``.

Knows nothing of files or networks: rows of probabilities and the truth in, a document out. Whatever is said about the
worth of the numbers was measured crosswise: on Cases of a group (a fold, where there are several) with temperatures and
limits from the other groups. What is kept for use comes from all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.documents import Document, Record
from medseg.errors import CheckpointError, MedsegError
from medseg.evaluation.calibration import (
    CalibrationCounts,
    CalibrationScores,
    Outcomes,
    class_outcomes,
    region_outcomes,
)
from medseg.inference.decision import decide, decision_of
from medseg.preprocessing.grid import Grid
from medseg.uncertainty.conformal import (
    ASSUMPTION,
    CaseNumbers,
    Limits,
    StructureNumbers,
    case_numbers,
    is_covered,
)
from medseg.uncertainty.sample import VoxelSample, VoxelSampler, in_doubt, join
from medseg.uncertainty.structures import EDGES, StructureCounts, target_masks, target_probabilities, voxels_above
from medseg.uncertainty.temperature import fit_temperature, tempered

RATE = 0.9


class Coverage(Record):
    """How often a statement held, on Cases that its limit was not made from."""

    held: int
    cases: int
    low: float
    """Lower end of the rate's 95 % interval (Clopper-Pearson)."""
    high: float


class QualityEstimate(Record):
    """How the expected Dice goes with the true one, over Cases that have both."""

    cases: int
    pearson: float | None = None
    """Null where either does not vary, or there are fewer than three Cases."""
    spearman: float | None = None
    error: float
    """Mean absolute difference."""


class StructureCalibration(Record):
    """One structure by itself."""

    name: str
    temperature: float
    """Of its own probability."""
    numbers: StructureNumbers
    """From which limits for any rate are read."""
    coverage: dict[str, Coverage]
    """At the rate of the document, for each statement."""
    outer_ratio: float | None = None
    """Median over Cases of the outer contour's volume over the true one."""
    inner_ratio: float | None = None
    quality: QualityEstimate | None = None


class Calibration(Document):
    """``calibration.json``."""

    kind: ClassVar[str] = "calibration"
    error: ClassVar[type[MedsegError]] = CheckpointError

    identities: dict[str, str]
    """What the networks of each configuration were; another training makes the document stale."""
    cases: int
    temperature: float
    """Of all classes together."""
    before: CalibrationScores
    """Voxels that may be in a structure (the background's probability below 0.99), without temperature."""
    after: CalibrationScores
    """The same with it."""
    before_everywhere: CalibrationScores
    """All voxels, without temperature."""
    after_everywhere: CalibrationScores
    rate: float
    """At which coverage was measured."""
    assumption: str = ASSUMPTION
    structures: tuple[StructureCalibration, ...]
    is_crosswise: bool = True
    """Whether each Case was measured with what others have taught; not so where all are of one group."""

    @property
    def headline(self) -> str:
        """What was measured, and on which Cases."""
        how = (
            "each measured without its own group"
            if self.is_crosswise
            else "all of one group, so measured on what it was learned from: new cases will be worse"
        )
        return f"{self.cases} held-out case(s), temperature {self.temperature:.3f}; {how}"

    def limits(self, rate: float) -> tuple[Limits, ...]:
        """What is guaranteed of each structure of a new Case at a rate."""
        return tuple(one.numbers.limits(rate) for one in self.structures)


@dataclass(frozen=True)
class Observed:
    """What one held-out Case adds."""

    group: int
    """Cases of one group are measured with what the others teach."""
    sample: VoxelSample
    counts: StructureCounts
    true_voxels: tuple[int, ...]
    """Of each target, also outside of the crop box."""
    is_annotated: bool
    """Whether every voxel is."""


def observe_case(
    case: str, group: int, rows: Iterable[Tensor], grid: Grid, truth: Labels, table: LabelTable
) -> Observed:
    """Take in rows of probabilities ``(K, Y, X)`` of the crop box, and the truth on the file's own grid.

    Voxels that nobody annotated are left out.
    """
    box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    cropped = grid.orient(truth)[box]
    sampler = VoxelSampler(case, table.activation == "softmax")
    counts, decision = StructureCounts.empty(len(table.targets)), decision_of(table)
    for probabilities, true in zip(rows, cropped, strict=True):
        known = np.ones(true.shape, bool) if table.ignore_index is None else true != table.ignore_index
        kept = torch.from_numpy(known).to(probabilities.device)
        found, right = probabilities[:, kept], torch.from_numpy(true[known].astype(np.int64)).to(probabilities.device)
        predicted = decide(found, decision)
        counts.add(target_probabilities(found, table), target_masks(predicted, table), target_masks(right, table))
        sampler.add(found.cpu().numpy(), true[known])
    sizes = tuple(int(target.mask(truth).sum()) for target in table.targets)
    is_annotated = table.ignore_index is None or not (truth == table.ignore_index).any()
    return Observed(group, sampler.sample(), counts, sizes, is_annotated)


def make_calibration(
    observed: Sequence[Observed], table: LabelTable, identities: Mapping[str, str], rate: float = RATE
) -> tuple[Calibration, tuple[CalibrationCounts, CalibrationCounts]]:
    """The document, and the counts of voxels in doubt before and after, for pictures."""
    apart = {group: [one for one in observed if one.group != group] or list(observed) for group in _groups(observed)}
    fitted = {group: _temperatures(others, table) for group, others in apart.items()}
    counts = _count(observed, table, {group: joint for group, (joint, _) in fitted.items()})
    joint, own = _temperatures(observed, table)
    structures = tuple(
        _structure(observed, place, name, own[place], {group: found[1][place] for group, found in fitted.items()}, rate)
        for place, name in enumerate(table.target_names)
    )
    before, after, before_everywhere, after_everywhere = (one.scores() for one in counts)
    document = Calibration(
        identities=dict(identities),
        cases=len(observed),
        temperature=joint,
        before=before,
        after=after,
        before_everywhere=before_everywhere,
        after_everywhere=after_everywhere,
        rate=rate,
        structures=structures,
        is_crosswise=len(apart) > 1,
    )
    return document, (counts[0], counts[1])


def _groups(observed: Sequence[Observed]) -> list[int]:
    return sorted({one.group for one in observed})


def _temperatures(observed: Sequence[Observed], table: LabelTable) -> tuple[float, list[float]]:
    """Of all classes together, and of each target by itself."""
    sample = join([one.sample for one in observed])
    true = np.stack([target.mask(sample.truth) for target in table.targets])
    joint = fit_temperature(
        sample.probabilities, true if table.activation == "sigmoid" else sample.truth, sample.weight, table.activation
    )
    apart = target_probabilities(torch.from_numpy(sample.probabilities), table).numpy()
    own = [fit_temperature(apart[[i]], true[[i]], sample.weight, "sigmoid") for i in range(len(true))]
    return joint, own


def _count(
    observed: Sequence[Observed], table: LabelTable, temperatures: Mapping[int, float]
) -> tuple[CalibrationCounts, CalibrationCounts, CalibrationCounts, CalibrationCounts]:
    """Outcomes in doubt before and after, and everywhere before and after."""
    found = tuple(CalibrationCounts() for _ in range(4))
    for one in observed:
        sample = one.sample
        doubt = in_doubt(sample.probabilities, table.activation == "softmax")
        calibrated = tempered(torch.from_numpy(sample.probabilities), temperatures[one.group], table.activation).numpy()
        for probabilities, counts in ((sample.probabilities, found[::2]), (calibrated, found[1::2])):
            for kept, into in zip((doubt, np.ones_like(doubt)), counts, strict=True):
                outcomes, weight = _outcomes(probabilities[:, kept], sample.truth[kept], sample.weight[kept], table)
                into.add(outcomes, weight)
    return found[0], found[1], found[2], found[3]


def _outcomes(
    probabilities: np.ndarray, truth: np.ndarray, weight: np.ndarray, table: LabelTable
) -> tuple[Outcomes, np.ndarray]:
    if table.activation == "softmax":
        return class_outcomes(probabilities, truth), weight
    true = np.stack([target.mask(truth) for target in table.targets])
    return region_outcomes(probabilities, true), np.tile(weight, len(true))


def _structure(
    observed: Sequence[Observed],
    place: int,
    name: str,
    temperature: float,
    temperatures: Mapping[int, float],
    rate: float,
) -> StructureCalibration:
    expected = [one.counts.estimate(place, name, 1.0, temperatures[one.group]).expected_dice for one in observed]
    numbers = [
        case_numbers(one.counts, place, one.true_voxels[place], dice, one.is_annotated)
        for one, dice in zip(observed, expected, strict=True)
    ]
    limits = {
        group: StructureNumbers.of(name, _others(observed, numbers, group)).limits(rate) for group in _groups(observed)
    }
    outer, inner = zip(*(_ratios(one, place, limits[one.group]) for one in observed), strict=True)
    true = [one.counts.true_dice(place, one.true_voxels[place]) for one in observed]
    return StructureCalibration(
        name=name,
        temperature=temperature,
        numbers=StructureNumbers.of(name, numbers),
        coverage=_coverage([is_covered(x, limits[one.group]) for one, x in zip(observed, numbers, strict=True)]),
        outer_ratio=_median(outer),
        inner_ratio=_median(inner),
        quality=quality_of(expected, true),
    )


def _others(observed: Sequence[Observed], numbers: Sequence[CaseNumbers], group: int) -> list[CaseNumbers]:
    return [number for one, number in zip(observed, numbers, strict=True) if one.group != group] or list(numbers)


def _ratios(one: Observed, place: int, limits: Limits) -> tuple[float | None, float | None]:
    """Volume of the outer and of the inner contour over the true one."""
    true, above = one.true_voxels[place], voxels_above(one.counts.everywhere[place])
    found = [
        None if limit is None or not true else float(above[EDGES.searchsorted(limit - 1e-6)]) / true
        for limit in (limits.outer, limits.inner)
    ]
    return found[0], found[1]


def _coverage(cases: Sequence[Mapping[str, bool]]) -> dict[str, Coverage]:
    from scipy.stats import binomtest  # slow to import

    found = {}
    for what in ("outer", "inner", "volume", "dice"):
        held = [case[what] for case in cases if what in case]
        if held:
            interval = binomtest(sum(held), len(held)).proportion_ci()
            found[what] = Coverage(held=sum(held), cases=len(held), low=float(interval.low), high=float(interval.high))
    return found


def quality_of(expected: Sequence[float | None], true: Sequence[float | None]) -> QualityEstimate | None:
    """How estimates go with the truth; None where no Case has both."""
    pairs = np.array([(x, y) for x, y in zip(expected, true, strict=True) if x is not None and y is not None])
    if not len(pairs):
        return None
    error = float(np.abs(pairs[:, 0] - pairs[:, 1]).mean())
    if len(pairs) < 3 or (pairs.std(axis=0) == 0).any():
        return QualityEstimate(cases=len(pairs), error=error)
    from scipy.stats import rankdata  # slow to import

    pearson, spearman = (float(np.corrcoef(one.T)[0, 1]) for one in (pairs, rankdata(pairs, axis=0)))
    return QualityEstimate(cases=len(pairs), error=error, pearson=pearson, spearman=spearman)


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.median(found)) if found else None
