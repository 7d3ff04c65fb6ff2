"""What people see of a command: tables, sentences and progress bars.

Knows nothing of what is shown. Results go to stdout, progress to stderr, so that output can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 1000
"""Where stdout is no terminal (a file, a pipe), tables are as wide as they need to be."""
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _ANY_WIDTH)


def say(text: str = "") -> None:
    """Print a line of text to stdout as it is."""
    _out.print(text, markup=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout; columns of numbers are aligned to the right, words to the left.

    On a narrow terminal cells go on in further lines: a number that is cut reads like another number.
    """
    shown = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numbers = any(row[index][:1].isdigit() for row in rows) and not any(row[index][:1].isalpha() for row in rows)
        shown.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    _out.print(shown)


class _Speed(ProgressColumn):
    """How fast it goes: steps per second, or seconds per step where that reads better."""

    def render(self, task: Task) -> Text:
        """The speed over the last few seconds."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")


class Bar:
    """A ``medseg.progress.Progress`` drawn on stderr, with an estimate of the time that remains.

    Where stderr is no terminal (a log file, a cluster), a line is printed every tenth of the work instead.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title, self._total, self._done, self._printed = "", 0, 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def start(self, title: str, total: int) -> None:
        """Begin a piece of work of ``total`` steps."""
        self.finish()
        self._title, self._total, self._done, self._printed = title, total, 0, 0
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                _Speed(),
                TextColumn("{task.fields[shown]}"),
                console=self._console,
                # What is said meanwhile stands above the bar; where stdout is a pipe, it must not end up on stderr.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task(title, total=total, shown="")
            self._bar.start()

    def advance(self, steps: int = 1, **shown: str) -> None:
        """Show that ``steps`` more are done, with short texts such as ``loss='0.31'`` behind the bar."""
        text = "  ".join(f"{name} {value}" for name, value in shown.items())
        self._done += steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps)
            if text:
                self._bar.update(self._task, shown=text)
        elif self._total and self._done * 10 // self._total > self._printed:
            self._printed = self._done * 10 // self._total
            print(f"{self._title}: {self._done}/{self._total}  {text}".rstrip(), file=sys.stderr, flush=True)

    def note(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(sentence, markup=False, soft_wrap=True)

    def finish(self) -> None:
        """Close the bar, if one is open."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
