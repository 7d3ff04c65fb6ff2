"""What is kept of a training while it runs: moving averages, a CSV log, checkpoints, the progress bar.

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
from medseg.training.loop import Step

_MEMORY = 0.97
_LOG_ROWS = 500
COLUMNS = ("iteration", "loss", "dice", "held_out_dice", "learning_rate", "seconds")


def read_log(path: Path) -> list[dict[str, float | None]]:
    """The rows of ``log.csv``, numbers or None; empty where there is no log yet."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(stream)]


class Recorder:
    """Called after every step of one training."""

    def __init__(
        self,
        folder: Path,
        iterations: int,
        save: Callable[[int, dict[str, float | None]], Any],
        held_out_dice: Callable[[], float | None],
        progress: Progress,
        save_every_seconds: float,
        tracker: Any = None,
    ) -> None:
        self.averages: dict[str, float | None] = {"loss": None, "dice": None}
        self._log = folder / "log.csv"
        self._rows: list[dict[str, float | None]] = []
        self._iterations, self._save, self._held_out_dice = iterations, save, held_out_dice
        self._progress, self._save_every, self._tracker = progress, save_every_seconds, tracker
        self._log_every = max(1, iterations // _LOG_ROWS)
        self._check_every = max(1, iterations // 30)
        self._seconds_before, self._started, self._saved = 0.0, time.monotonic(), time.monotonic()
        self._held_out: float | None = None

    def resume(self, iteration: int, loss: float | None, dice: float | None) -> None:
        """Go on after ``iteration`` steps of an earlier process; later rows of its log are dropped."""
        self.averages = {"loss": loss, "dice": dice}
        self._rows = [row for row in read_log(self._log) if (row["iteration"] or 0) <= iteration]
        self._seconds_before = (self._rows[-1]["seconds"] or 0.0) if self._rows else 0.0

    def __call__(self, step: Step) -> None:
        """Take note of one step; save when it is time, and always after the last."""
        self._average("loss", step.loss)
        self._average("dice", step.dice)
        last = step.iteration == self._iterations
        checked = step.iteration % self._check_every == 0 or last
        if checked:
            self._held_out = self._held_out_dice()
        if checked or step.iteration % self._log_every == 0:
            self._add_row(step, self._held_out if checked else None)
        self._show()
        if last or time.monotonic() - self._saved > self._save_every:
            self._save(step.iteration, self.averages)
            self.write_log()
            self._saved = time.monotonic()

    def write_log(self) -> None:
        """Write ``log.csv`` whole."""
        lines = [",".join(COLUMNS)]
        lines += [",".join("" if row[c] is None else f"{row[c]:.6g}" for c in COLUMNS) for row in self._rows]
        write_text(self._log, "\n".join(lines) + "\n")

    def _average(self, name: str, value: float | None) -> None:
        if value is not None:
            old = self.averages[name]
            self.averages[name] = value if old is None else _MEMORY * old + (1 - _MEMORY) * value

    def _add_row(self, step: Step, held_out: float | None) -> None:
        row: dict[str, float | None] = {
            "iteration": step.iteration,
            **self.averages,
            "held_out_dice": held_out,
            "learning_rate": step.learning_rate,
            "seconds": self._seconds_before + time.monotonic() - self._started,
        }
        self._rows.append(row)
        if self._tracker is not None:
            for name in ("loss", "dice", "held_out_dice", "learning_rate"):
                if row[name] is not None:
                    self._tracker.add_scalar(name, row[name], step.iteration)

    def _show(self) -> None:
        shown = {name: f"{value:.3f}" for name, value in self.averages.items() if value is not None}
        if self._held_out is not None:
            shown["held-out"] = f"{self._held_out:.3f}"
        self._progress.advance(1, **shown)
