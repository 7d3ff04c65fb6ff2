"""What is kept of a training while it runs: a CSV log, checkpoints, the progress bar.

Knows nothing of networks beyond saving them. The clock decides when a checkpoint is written, never what is in it.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg.files import write_text
from medseg.progress import Progress
from medseg.training.course import Course
from medseg.training.loop import Step
from medseg.training.schedule import Schedule

_LOG_ROWS = 500
COLUMNS = ("iteration", "loss", "dice", "held_out_dice", "learning_rate", "seconds")


def read_log(path: Path) -> list[dict[str, float | None]]:
    """The rows of ``log.csv``, numbers or None; empty where there is no log yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(stream)]


class Recorder:
    """Told of every step of one training; keeps its log, and says when to save it."""

    def __init__(
        self,
        folder: Path,
        begun: Course,
        schedule: Schedule,
        save: Callable[[Course], object],
        progress: Progress,
        save_every_seconds: float,
        tracker: Any = None,
    ) -> None:
        self._log = folder / "log.csv"
        # Rows that an earlier process wrote after its last checkpoint are dropped.
        self._rows = [row for row in read_log(self._log) if (row["iteration"] or 0) <= begun.iteration]
        self._schedule, self._save = schedule, save
        self._progress, self._save_every, self._tracker = progress, save_every_seconds, tracker
        self._log_every = max(1, schedule.end // _LOG_ROWS)
        self._seconds_before = (self._rows[-1]["seconds"] or 0.0) if self._rows else 0.0
        self._started = self._saved = time.monotonic()

    def record(self, step: Step, course: Course) -> None:
        """Take note of one step and the course up to it; save when it is time, and always after the last."""
        last = step.iteration == self._schedule.end
        check = course.checks[-1] if course.checks else None
        new = check.dice if check is not None and check.iteration == step.iteration else None
        if last or new is not None or step.iteration % self._log_every == 0:
            self._add_row(step, course, new)
        shown = {"loss": course.loss, "dice": course.dice, "held-out": check.dice if check else None}
        self._progress.advance(1, **{name: f"{value:.3f}" for name, value in shown.items() if value is not None})
        if last or time.monotonic() - self._saved > self._save_every:
            self._save(course)
            self._saved = time.monotonic()

    def write_log(self) -> None:
        """Write ``log.csv`` whole."""
        lines = [",".join(COLUMNS)]
        lines += [",".join("" if row[c] is None else f"{row[c]:.6g}" for c in COLUMNS) for row in self._rows]
        write_text(self._log, "\n".join(lines) + "\n")

    def _add_row(self, step: Step, course: Course, held_out: float | None) -> None:
        row: dict[str, float | None] = {
            "iteration": step.iteration,
            "loss": course.loss,
            "dice": course.dice,
            "held_out_dice": held_out,
            "learning_rate": step.learning_rate,
            "seconds": self._seconds_before + time.monotonic() - self._started,
        }
        self._rows.append(row)
        if self._tracker is not None:
            for name in ("loss", "dice", "held_out_dice", "learning_rate"):
                if row[name] is not None:
                    self._tracker.add_scalar(name, row[name], step.iteration)
