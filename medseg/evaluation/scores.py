"""The Scores of many Cases: mean, median, spread and 95 % interval for each structure, as JSON, CSV and table rows.

Knows nothing of voxels. The overall number is the mean over structures of the mean over Cases, structures that are in
neither array skipped (nnU-Net's way of choosing configurations). Absent, missed and false-alarm Cases are counted
beside the means: HD95 and ASSD have no value for the latter two, so read their means together with those counts.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from medseg.documents import Document, Record
from medseg.errors import MedsegError
from medseg.evaluation.bootstrap import interval, resampled_means
from medseg.evaluation.metrics import METRICS, CaseScores, Status, StructureScores, score_case
from medseg.files import written_whole

__all__ = [
    "CaseScores",
    "Scores",
    "StructureScores",
    "as_rows",
    "rank_cases",
    "score_case",
    "summarise",
    "write_csv",
]

AVERAGED = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "boundary_f1")
"""Metrics that may be averaged over structures."""


class Statistic(Record):
    """One metric over the Cases in which it has a value."""

    n: int
    """Cases with a value."""
    mean: float
    """Mean over those Cases."""
    median: float
    """Median over those Cases."""
    std: float | None = None
    """Standard deviation over Cases (n - 1); null for one Case."""
    low: float | None = None
    """Lower end of the mean's 95 % bootstrap interval; null for one Case."""
    high: float | None = None
    """Upper end of it."""


class Average(Record):
    """One metric averaged over structures: the mean of the structures' means."""

    mean: float
    """Mean over structures of the mean over Cases."""
    low: float | None = None
    """Lower end of its 95 % bootstrap interval (Cases resampled); null for one Case."""
    high: float | None = None
    """Upper end of it."""
    structures: int
    """Structures that have a value."""


class StructureSummary(Record):
    """One structure over all Cases."""

    name: str
    """The structure."""
    n_scored: int
    """Cases in which both arrays hold it."""
    n_absent: int
    """Cases in which neither does: left out of every mean."""
    n_missed: int
    """Cases in which only the truth does: Dice 0, no distances."""
    n_false_alarm: int
    """Cases in which only the prediction does: Dice 0, no distances."""
    metrics: dict[str, Statistic]
    """By metric; one without any value is left out."""


class Scores(Document):
    """``scores.json``: what a set of predictions is worth."""

    kind: ClassVar[str] = "scores"

    tolerance_mm: float
    """The tolerance of NSD and boundary F1."""
    average: dict[str, Average]
    """By metric, averaged over structures."""
    structures: tuple[StructureSummary, ...]
    """In the order of the label table."""
    cases: tuple[CaseScores, ...]
    """Every Case."""

    @property
    def mean_dice(self) -> float | None:
        """Mean over structures of the mean Dice over Cases; None when no structure was anywhere."""
        return self.average["dice"].mean if "dice" in self.average else None

    def content(self) -> dict[str, Any]:
        """As in the file; a number without meaning stands there as null instead of being left out."""
        return {"kind": self.kind, "format": self.format, **self.model_dump(mode="json")}


def summarise(cases: Sequence[CaseScores]) -> Scores:
    """The Scores of all Cases together. Raises MedsegError when there is none, or they can't be pooled."""
    if not cases:
        raise MedsegError("No case was scored, so there is nothing to summarise.")
    layouts = {(case.tolerance_mm, tuple(structure.name for structure in case.structures)) for case in cases}
    if len(layouts) > 1:
        raise MedsegError("Cases scored with other structures or another tolerance can't be pooled. Score them anew.")
    ((tolerance_mm, names),) = layouts
    table = np.array([[_values(structure) for structure in case.structures] for case in cases], dtype=np.float64)
    table = table.reshape(len(cases), len(names), len(METRICS))
    means = resampled_means(table.reshape(len(cases), -1)).reshape(-1, len(names), len(METRICS))
    structures = []
    for index, name in enumerate(names):
        counts = {
            f"n_{status}": sum(case.structures[index].status == status for case in cases) for status in get_args(Status)
        }
        found = {metric: _statistic(table[:, index, m], means[:, index, m]) for m, metric in enumerate(METRICS)}
        metrics = {metric: statistic for metric, statistic in found.items() if statistic is not None}
        structures.append(StructureSummary(name=name, metrics=metrics, **counts))
    return Scores(
        tolerance_mm=tolerance_mm,
        average=_averages(structures, means, len(cases)),
        structures=tuple(structures),
        cases=tuple(cases),
    )


def rank_cases(scores: Scores) -> list[CaseScores]:
    """The Cases that have a mean Dice, the worst first."""
    ranked = [(case.mean_dice, index) for index, case in enumerate(scores.cases) if case.mean_dice is not None]
    return [scores.cases[index] for _, index in sorted(ranked)]


def write_csv(path: Path, scores: Scores) -> None:
    """One row for each Case and structure; a number without meaning is an empty cell."""
    columns = list(StructureScores.model_fields)
    with written_whole(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "structure", *columns[1:]])
        for case in scores.cases:
            for structure in case.structures:
                row = structure.model_dump()
                writer.writerow([case.case, *("" if row[column] is None else row[column] for column in columns)])


def as_rows(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Column titles and one row of text for each structure, the average last: means with 95 % intervals of Dice."""
    columns = ["structure", "Dice [95 % interval]", "HD95 mm", f"NSD at {scores.tolerance_mm:g} mm", "n", "remarks"]
    rows = []
    for structure in scores.structures:
        metrics = structure.metrics
        n = metrics["dice"].n if "dice" in metrics else 0
        rows.append([structure.name, *_cells(metrics), str(n), _remarks(structure)])
    if len(rows) > 1:
        rows.append(["mean", *_cells(scores.average), str(len(scores.cases)), ""])
    return columns, rows


def _values(structure: StructureScores) -> list[float]:
    found = (getattr(structure, metric) for metric in METRICS)
    return [np.nan if value is None else float(value) for value in found]


def _statistic(values: NDArray[np.float64], means: NDArray[np.float64]) -> Statistic | None:
    found = values[np.isfinite(values)]
    if not found.size:
        return None
    low, high = (interval(means) if found.size > 1 else None) or (None, None)
    return Statistic(
        n=found.size,
        mean=float(found.mean()),
        median=float(np.median(found)),
        std=float(found.std(ddof=1)) if found.size > 1 else None,
        low=low,
        high=high,
    )


def _averages(structures: Sequence[StructureSummary], means: NDArray[np.float64], cases: int) -> dict[str, Average]:
    averages = {}
    for metric in AVERAGED:
        chosen = [index for index, structure in enumerate(structures) if metric in structure.metrics]
        if not chosen:
            continue
        drawn = means[:, chosen, METRICS.index(metric)]
        # A draw in which a rare structure never occurs is the mean of the others, as the number itself would be.
        present = np.isfinite(drawn)
        some = present.any(axis=1)
        pooled = np.where(present, drawn, 0.0).sum(axis=1)[some] / present.sum(axis=1)[some]
        low, high = (interval(pooled) if cases > 1 else None) or (None, None)
        averages[metric] = Average(
            mean=float(np.mean([structures[index].metrics[metric].mean for index in chosen])),
            low=low,
            high=high,
            structures=len(chosen),
        )
    return averages


def _cells(metrics: dict[str, Statistic] | dict[str, Average]) -> list[str]:
    dice, hd95, nsd = (metrics.get(metric) for metric in ("dice", "hd95_mm", "nsd"))
    return [
        "-" if dice is None else f"{dice.mean:.3f}{_span(dice)}",
        "-" if hd95 is None else f"{hd95.mean:.2f}",
        "-" if nsd is None else f"{nsd.mean:.3f}",
    ]


def _span(statistic: Statistic | Average) -> str:
    return "" if statistic.low is None else f" [{statistic.low:.3f}, {statistic.high:.3f}]"


def _remarks(structure: StructureSummary) -> str:
    counted = (
        (structure.n_missed, "missed"),
        (structure.n_false_alarm, "false alarm"),
        (structure.n_absent, "absent in both"),
    )
    return ", ".join(f"{count} {what}" for count, what in counted if count)
