"""Networks or losses trained alike and compared on the same held-out Cases: what each is worth and what it costs.

Knows nothing of how they were trained. Numbers of a Case are averaged over seeds first, so that Cases are what is
resampled and tested (``medseg.evaluation.comparison``); p-values are corrected for their number (Holm 1979).
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from medseg.documents import Document, Record
from medseg.evaluation.comparison import Compared, DiceTable, compare, holm
from medseg.evaluation.scores import Scores
from medseg.files import write_text, written_whole

Metric = Literal["dice", "hd95_mm", "nsd"]
_ONE = {"networks": "network", "losses": "loss"}
METRICS: tuple[Metric, ...] = ("dice", "hd95_mm", "nsd")


class Trial(Record):
    """One choice, over all its seeds."""

    name: str
    metrics: dict[Metric, Compared]
    """Mean, interval, and paired difference to the reference; without those in which nothing has a value."""
    seeds: dict[int, float]
    """Mean Dice of each seed."""
    ece: float
    """Expected calibration error of held-out voxels that are, or may well be, in a structure; mean over seeds."""
    parameters: int
    peak_memory_bytes: int | None = None
    """Of a training process; null where it is not known."""
    cpu_seconds_per_iteration: float | None = None
    """Processor time of all threads; null on a GPU."""
    seconds_per_iteration: float
    """By the clock, on a machine that may have had other work."""
    seconds_per_case: float
    """By the clock: predicting and scoring a held-out Case."""
    iterations: dict[int, int]
    """Optimizer steps of each seed."""
    resumed: bool = False
    """Whether a training was interrupted; times and memory are those of its last part then."""


class Trials(Document):
    """``comparison.json``."""

    kind: ClassVar[str] = "comparison"

    compared: Literal["networks", "losses"]
    configuration: str
    fold: int
    reference: str
    """With which the others are compared."""
    cases: tuple[str, ...]
    """Held out of all."""
    device: str
    budget: str
    """What each was given."""
    trials: tuple[Trial, ...]
    """The best Dice first."""


def compare_metric(scores: Mapping[str, Sequence[Scores]], metric: Metric, reference: str) -> dict[str, Compared]:
    """Every choice (with the Scores of each of its seeds) in one metric, the p-values corrected together."""
    tables = {name: _over_seeds([_table(one, metric) for one in seeds]) for name, seeds in scores.items()}
    tables = {name: table for name, table in tables.items() if np.isfinite(table).any()}
    if reference not in tables:
        return {}
    found = {one.name: one for one in compare(tables, reference)}
    tested = {name: one.p_value for name, one in found.items() if one.p_value is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {name: one.model_copy(update={"p_value": corrected.get(name)}) for name, one in found.items()}


def _over_seeds(tables: Sequence[DiceTable]) -> DiceTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where a structure has a value with no seed
        return np.nanmean(tables, axis=0)


def _table(scores: Scores, metric: Metric) -> DiceTable:
    values = [[getattr(structure, metric) for structure in case.structures] for case in scores.cases]
    return np.array([[np.nan if value is None else value for value in row] for row in values], dtype=np.float64)


def quality_rows(found: Trials) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table that says how good each choice is."""
    columns = [_ONE[found.compared], "Dice [95 %]", "difference [95 %]", "p", "HD95 mm", "NSD", "ECE"]
    return columns, [_quality(found, trial) for trial in found.trials]


def cost_rows(found: Trials) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table that says what each choice costs; iterations are the mean over seeds."""
    seconds = "CPU s/iteration" if found.device == "cpu" else "s/iteration"
    columns = [_ONE[found.compared], "iterations", seconds, "s/case", "parameters", "memory"]
    return columns, [_cost(trial) for trial in found.trials]


def _quality(found: Trials, trial: Trial) -> list[str]:
    dice, hd95, nsd = trial.metrics["dice"], trial.metrics.get("hd95_mm"), trial.metrics.get("nsd")
    difference = f"{dice.difference:+.3f}{_span(dice.difference_low, dice.difference_high)}"
    return [
        trial.name,
        f"{dice.dice:.3f}{_span(dice.low, dice.high)}",
        "-" if trial.name == found.reference else difference,
        "-" if dice.p_value is None else f"{dice.p_value:.2g}",
        "-" if hd95 is None else f"{hd95.dice:.2f}",
        "-" if nsd is None else f"{nsd.dice:.3f}",
        f"{trial.ece:.3f}",
    ]


def _cost(trial: Trial) -> list[str]:
    seconds = trial.cpu_seconds_per_iteration or trial.seconds_per_iteration
    return [
        trial.name,
        f"{np.mean(list(trial.iterations.values())):,.0f}",
        f"{seconds:.2f}{'*' if trial.resumed else ''}",
        f"{trial.seconds_per_case:.2f}",
        f"{trial.parameters / 1e6:.2f} M",
        "-" if trial.peak_memory_bytes is None else f"{trial.peak_memory_bytes / 1e6:.0f} MB",
    ]


def write_table(path: Path, found: Trials) -> None:
    """Both tables as one in Markdown, to paste into a report."""
    columns, rows = quality_rows(found)
    more, costs = cost_rows(found)
    columns = [*columns, *more[1:]]
    joined = [[*row, *cost[1:]] for row, cost in zip(rows, costs, strict=True)]
    lines = (columns, ["---"] * len(columns), *joined)
    write_text(path, "".join(f"| {' | '.join(line)} |\n" for line in lines))


def write_trials(path: Path, found: Trials) -> None:
    """A CSV with a line for each choice and full numbers."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        ends = ("dice", "low", "high", "difference", "difference_low", "difference_high", "p_value")
        names = [f"{metric}_{end}" if end != "dice" else metric for metric in METRICS for end in ends]
        costs = ["ece", "parameters", "peak_memory_bytes", "cpu_seconds_per_iteration", "seconds_per_iteration"]
        costs += ["seconds_per_case"]
        writer = csv.writer(stream)
        writer.writerow(["name", *names, *costs])
        for trial in found.trials:
            numbers = [getattr(trial.metrics.get(metric), end, None) for metric in METRICS for end in ends]
            writer.writerow([trial.name, *numbers, *(getattr(trial, cost) for cost in costs)])


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
