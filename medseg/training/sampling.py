"""Which Case a training patch is taken from and on which voxel it is centred; all from one random stream.

Knows nothing of patches' sizes or contents. The rule without any switch is nnU-Net's (Isensee et al. 2021): a Case,
then a target among those in it, then a voxel. Switched on by the Plan: the target before the Case, so that a structure
of few Cases is seen as often as any other; small targets more often than large ones, and a small component of a target
as often as a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.cases.labels import LabelTable
from medseg.cases.laterality import named_by_side
from medseg.errors import PlanError
from medseg.planning.plan import SamplingPlan
from medseg.preprocessing.store import PreparedRecord

_SIZE_EXPONENT = -0.5
"""A target with a hundredth of the volume is drawn ten times as often."""


class Sampler:
    """Draws Cases and targets for the patches that are centred on a structure."""

    def __init__(self, folder: Path, cases: Sequence[str], table: LabelTable, plan: SamplingPlan) -> None:
        self.cases, self.plan, self.targets = tuple(cases), plan, table.targets
        self.holders: list[list[str]] = []
        """Of each target the Cases that hold it; only known where something asks for them."""
        self._shares = np.ones(len(self.targets))
        if plan.balanced or plan.size_aware or plan.copy_paste:
            records = [PreparedRecord.load(folder / name / "case.json") for name in self.cases]
            counts = np.array([[sum(r.label_voxels[i] for i in t.indices) for t in self.targets] for r in records])
            self.holders = [[self.cases[i] for i in np.flatnonzero(column)] for column in counts.T]
            if plan.size_aware:
                self._shares = np.maximum(counts.sum(0) / np.maximum((counts > 0).sum(0), 1), 1) ** _SIZE_EXPONENT
            self._shares = self._shares * [bool(holders) for holders in self.holders]

    def draw_case(self, random: np.random.Generator, forced: bool) -> tuple[str, int | None]:
        """A Case, and for a ``forced`` patch the target where that is drawn first."""
        if forced and self.plan.balanced and self._shares.any():
            target = self._draw(range(len(self.targets)), random)
            return _one_of(self.holders[target], random), target
        return _one_of(self.cases, random), None

    def draw_target(self, present: Sequence[int], random: np.random.Generator) -> int:
        """One of the targets that are present in a Case."""
        if self.plan.size_aware:
            return self._draw(present, random)
        return present[int(random.integers(len(present)))]

    def _draw(self, targets: Sequence[int], random: np.random.Generator) -> int:
        shares = self._shares[list(targets)]
        return targets[int(np.searchsorted(shares.cumsum() / shares.sum(), random.random(), side="right"))]


def _one_of(names: Sequence[str], random: np.random.Generator) -> str:
    return names[int(random.integers(len(names)))]


def rare_targets(table: LabelTable, plan: SamplingPlan) -> tuple[int, ...]:
    """Numbers of the targets that are copied between Cases. Raises PlanError for a name that no target has."""
    unknown = [name for name in plan.rare if name not in table.target_names]
    if unknown:
        raise PlanError(
            f"sampling.rare names {', '.join(unknown)}, which the dataset does not have; it has "
            f"{', '.join(table.target_names)}."
        )
    sided = named_by_side(table.target_names)
    if sided and set(sided) & set(plan.rare) and plan.copy_paste:
        raise PlanError(
            f"sampling.rare names {', '.join(name for name in plan.rare if name in sided)}, which has a side of the "
            "patient and could be copied to the other one. Leave it out."
        )
    wanted = plan.rare or tuple(name for name in table.target_names if name not in sided)
    return tuple(number for number, name in enumerate(table.target_names) if name in wanted)
