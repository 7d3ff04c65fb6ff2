"""``medseg benchmark``: medseg and its peers side by side, turn by turn, on this machine; losses are printed too.

A minute in the smoke size, half an hour in full: ``medseg benchmark nnunet=PATH_TO_ITS_PYTHON``
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from medseg.commands.console import Bar, say, table
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.benchmarking.result import BenchmarkResult, Row


class BenchmarkSettings(Settings):
    """Settings of ``medseg benchmark``."""

    suite: Literal["cpu", "gpu"] = "cpu"
    """cpu: C1 to C10, against nnU-Net, MONAI and surface-distance; gpu: G1 to G6, against the device's own peak."""
    only: str | tuple[str, ...] = ()
    """Some of them, such as C1 or [C1,C5]."""
    size: Literal["smoke", "full"] = "full"
    """smoke shows in a minute that everything runs; only full says anything."""
    nnunet: Path | None = None
    """A Python that has nnunetv2, such as nnunet/bin/python of an environment of its own."""
    monai: Path | None = None
    """A Python that has MONAI and surface-distance; by default this one."""
    dataset: Path | None = None
    """Real images with labels, such as MSD Hippocampus; drawn ones without."""
    model: Path | None = None
    """A trained nnU-Net model folder for the dataset (fold 0), for C2 and C3; random weights without."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?|mps)$")] | None = None
    """By default cpu for the cpu suite, cuda for the gpu suite."""
    threads: PositiveInt = 2
    """CPU threads for either side."""
    turns: PositiveInt = 5
    """Turns of each side, A B A B, of which the median is taken; one more of each comes first and is not counted."""
    output: Path = Path("benchmark")
    """Folder for benchmark.json."""


SETTINGS = (BenchmarkSettings,)


def run(words: Mapping[str, str]) -> int:
    """Run the suite, write benchmark.json, print the table; 2 when a contest could not be held."""
    settings = build(BenchmarkSettings, words)
    from medseg.benchmarking.setup import Setup
    from medseg.benchmarking.suite import chosen_contests, run_suite
    from medseg.cases.formats import read_dataset

    only = tuple(settings.only.replace(",", " ").split()) if isinstance(settings.only, str) else settings.only
    chosen_contests(settings.suite, only)
    defaults = {"cpu": "cpu", "gpu": "cuda"}
    with tempfile.TemporaryDirectory(prefix="medseg-benchmark-") as scratch, Bar() as bar:
        setup = Setup(
            scratch=Path(scratch),
            progress=bar,
            size=settings.size,
            threads=settings.threads,
            device=settings.device or defaults[settings.suite],
            turns=settings.turns,
            nnunet=_absolute(settings.nnunet),
            dataset=read_dataset(settings.dataset) if settings.dataset else None,
            model=settings.model.resolve() if settings.model else None,
            monai=_absolute(settings.monai),
        )
        result = run_suite(settings.suite, only, setup, lambda name: say(f"{name}: done"))
    result.save(settings.output / "benchmark.json")
    show_result(result)
    say(f"All of it, every turn included: {settings.output / 'benchmark.json'}")
    held = {row.id for row in result.rows}
    return 0 if all(name in held for name in chosen_contests(settings.suite, only)) else 2


def _absolute(path: Path | None) -> Path | None:
    """Made absolute but not resolved: the python of an environment is a link, and the link is what counts."""
    return path.absolute() if path else None


def show_result(result: BenchmarkResult) -> None:
    """The table, what parity found, and what is missing."""
    say(f"{result.machine}; {result.threads} thread(s); {result.device}; {result.material}")
    columns = ("", "work", "medseg", "peer", "ratio", "GB", "goal")
    table(f"medseg benchmark, {result.suite} suite, {result.size}", columns, [_cells(row) for row in result.rows])
    for row in result.rows:
        notes = [f"peer: {row.peer}"] if row.peer else []
        notes += [f"goal: {row.goal}"] if row.goal else []
        notes += [row.parity] if row.parity else []
        if notes:
            say(f"{row.id} {row.work}; {'; '.join(notes)}")
        shown = {key: value for key, value in row.facts.items() if key in ("patches_per_second", "share_of_peak")}
        if shown:
            say(f"{row.id} {row.work}: " + ", ".join(f"{key} {value:.3g}" for key, value in shown.items()))
    for name, versions in result.versions.items():
        say(f"{name}: {', '.join(f'{key} {value}' for key, value in versions.items())}")
    for line in result.missing:
        say(line)


def _cells(row: Row) -> tuple[str, ...]:
    from medseg.benchmarking.result import verdict

    unit = " s" if row.unit == "s" else f" {row.unit}"
    memory = [f"{bytes_ / 1e9:.2f}" for bytes_ in (row.memory, row.their_memory) if bytes_]
    return (
        row.id,
        row.work,
        f"{row.ours:.3g}{unit}",
        f"{row.theirs:.3g}{unit}" if row.theirs is not None else "-",
        f"{row.ratio:.3g}" if row.ratio is not None else "-",
        " / ".join(memory) or "-",
        verdict(row),
    )
