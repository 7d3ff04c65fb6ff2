"""Two sides take turns at the same work, A B A B, each in a process of its own; medians, and the peak of memory.

Knows nothing of what the work is. The rules: parity is looked at before any time is taken, both sides have the same
number of threads, and the first turn of each is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

from medseg.errors import MedsegError
from medseg.progress import Progress

_TURNS = Path(__file__).with_name("turns.py")
_PEERS = Path(__file__).with_name("peers")
_MOST_SECONDS = 900
"""For one turn; a side that takes longer is given up."""


@dataclass(frozen=True)
class Side:
    """Who works: a module of medseg's, or a file in ``peers/`` run by another Python."""

    name: str
    source: str
    request: Mapping[str, Any]
    python: Path = field(default_factory=lambda: Path(sys.executable))


@dataclass(frozen=True)
class Measured:
    """What one side's counted turns gave."""

    seconds: tuple[float, ...]
    memory: int
    """Largest resident size during a turn, bytes."""
    before: int
    """Largest resident size until the first turn: libraries and inputs."""
    facts: dict[str, float]
    """Medians of what the side measured by itself."""
    versions: dict[str, str]

    @property
    def median(self) -> float:
        return median(self.seconds)


Gate = Callable[[Path, Path | None], str]
"""Looks at what both sides kept of their first turn; says what it found, or raises MedsegError."""
Found = tuple[Measured, Measured | None, str]


class SideFailedError(MedsegError):
    """A side could not start, or ended in the middle of its work."""


def ours(name: str, request: Mapping[str, Any]) -> Side:
    """medseg's side; ``name`` is a module in ``medseg.benchmarking.ours``."""
    return Side("medseg", f"medseg.benchmarking.ours.{name}", request)


def peer(name: str, source: str, request: Mapping[str, Any], python: Path) -> Side:
    """A peer's side; ``source`` is a file in ``peers/``, run by the Python of the peer's own environment."""
    return Side(name, str(_PEERS / f"{source}.py"), request, python)


def compete(
    first: Side,
    second: Side | None,
    turns: int,
    threads: int,
    progress: Progress,
    gate: Gate | None = None,
) -> Found:
    """Both sides' measurements after ``turns`` each, and what the gate said of their first results.

    ``gate`` gets the folders of what each side kept and raises MedsegError where they differ too much. Without a
    second side the first works alone. Raises SideFailedError with the last words of a side that broke down.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-benchmark-") as name:
        folder = Path(name)
        sides = [_Process(side, folder / str(i), threads) for i, side in enumerate((first, second)) if side]
        try:
            for side in sides:
                side.turn(side.folder)
            said = gate(sides[0].folder, sides[1].folder if second else None) if gate else ""
            for _ in range(turns):
                for side in sides:
                    side.count()
                progress.advance()
        finally:
            for side in sides:
                side.stop()
        found = [side.measured() for side in sides]
    return found[0], found[1] if second else None, said


class _Process:
    """A side at work."""

    def __init__(self, side: Side, folder: Path, threads: int) -> None:
        folder.mkdir()
        self.folder, self._name = folder, side.name
        request = folder / "request.json"
        request.write_text(json.dumps(dict(side.request)), encoding="utf-8")
        self._errors = (folder / "errors.txt").open("wb")
        self._process = subprocess.Popen(  # noqa: S603 (an argument list, no shell)
            [str(side.python), str(_TURNS), side.source, str(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(threads),
            cwd=folder,
        )
        self._ready = self._answer()
        self._turns: list[dict[str, Any]] = []

    def turn(self, kept: Path | None = None) -> dict[str, Any]:
        """One turn; its result is kept in a folder where one is named."""
        try:
            _stream(self._process.stdin).write(f"{kept or ''}\n".encode())
            _stream(self._process.stdin).flush()
        except BrokenPipeError:
            raise self._failed() from None
        return self._answer()

    def count(self) -> None:
        """One turn that counts."""
        self._turns.append(self.turn())

    def measured(self) -> Measured:
        return Measured(
            tuple(turn["seconds"] for turn in self._turns),
            max(turn["memory"] for turn in self._turns),
            self._ready["memory"],
            {key: median(turn["facts"][key] for turn in self._turns) for key in self._turns[0]["facts"]},
            self._ready["versions"],
        )

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        _stream(self._process.stdin).close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _stream(self._process.stdout).close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        alarm = threading.Timer(_MOST_SECONDS, self._process.kill)
        alarm.start()
        try:
            line = _stream(self._process.stdout).readline()
        finally:
            alarm.cancel()
        if not line:
            raise self._failed()
        return json.loads(line)

    def _failed(self) -> SideFailedError:
        self._process.kill()
        self._process.wait()
        words = (self.folder / "errors.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = " ".join(words[-1:])[:300] or f"no word, exit code {self._process.returncode}"
        return SideFailedError(f"{self._name} broke down: {last}")


def _environment(threads: int) -> dict[str, str]:
    """The same threads for everyone, and nothing asked of the network."""
    many = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "nnUNet_def_n_proc"))
    return {**os.environ, **dict.fromkeys(many, str(threads)), "PYTHONUNBUFFERED": "1"}


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # all three were asked for
    return stream
