"""What a benchmark found: rows of a table, and the JSON that keeps them with the machine and the versions.

Knows nothing of how a number was measured.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medseg.benchmarking.contest import Measured
from medseg.documents import Document, Record


class Row(Record):
    """One comparison."""

    id: str
    """C1, ... or G1, ..."""
    work: str
    """What was done."""
    unit: str = "s"
    """Of the two values."""
    ours: float
    """medseg's median."""
    theirs: float | None = None
    """The peer's median."""
    peer: str = ""
    """Whom medseg was compared with, and its version."""
    ratio: float | None = None
    """How many times better medseg is; below 1 it lost."""
    memory: int | None = None
    """Largest resident size of medseg's process, bytes."""
    their_memory: int | None = None
    """Of the peer's."""
    parity: str = ""
    """What was found before any time was taken."""
    goal: str = ""
    """What it should reach."""
    reached: bool | None = None
    """Whether it does; None where no goal was set or the peer is missing."""
    turns: tuple[tuple[float, ...], ...] = ()
    """Seconds of every counted turn, ours and theirs."""
    facts: dict[str, float] = Field(default_factory=dict)
    """Further numbers."""


class BenchmarkResult(Document):
    """``benchmark.json``."""

    kind: ClassVar[str] = "benchmark"

    suite: str
    size: str
    machine: str
    threads: int
    device: str
    material: str
    """Whose images and whose network."""
    versions: dict[str, dict[str, str]]
    """Of medseg's libraries and of each peer's."""
    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    """What could not be compared, and why."""


def timed_row(
    identity: str,
    work: str,
    mine: Measured,
    other: Measured | None,
    name: str,
    *,
    per: float = 1,
    goal: float | None = None,
    parity: str = "",
    memory_goal: float | None = None,
    facts: dict[str, float] | None = None,
) -> Row:
    """A row of seconds (divided by ``per``, such as cases); ``goal`` is the ratio to reach."""
    ratio = other.median / mine.median if other else None
    share = mine.memory / other.memory if other else None
    wanted = [f"{goal:g} times as fast"] if goal else []
    wanted += [f"at most {memory_goal:g} of the memory"] if memory_goal else []
    reached = None
    if ratio is not None and share is not None and wanted:
        reached = (goal is None or ratio >= goal) and (memory_goal is None or share <= memory_goal)
    return Row(
        id=identity,
        work=work,
        ours=mine.median / per,
        theirs=other.median / per if other else None,
        peer=name if other else "",
        ratio=ratio,
        memory=mine.memory,
        their_memory=other.memory if other else None,
        parity=parity,
        goal=", ".join(wanted),
        reached=reached,
        turns=(mine.seconds, other.seconds) if other else (mine.seconds,),
        facts=mine.facts | (facts or {}),
    )


def describe_machine() -> str:
    """Processor, cores and system, as far as the system tells."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


Verdict = Literal["reached", "missed", ""]


def verdict(row: Row) -> Verdict:
    """In a word."""
    return "" if row.reached is None else "reached" if row.reached else "missed"
