"""What a suite is run with: size, threads, device, turns, peers; and which peers are there.

Knows nothing of single benchmarks.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from medseg.benchmarking.contest import Found, Gate, Side, compete
from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import make_folds
from medseg.progress import Progress

Size = Literal["smoke", "full"]
_T = TypeVar("_T")
_HOW = {
    "nnunetv2": (
        "nnU-Net",
        "python3 -m venv nnunet && nnunet/bin/pip install nnunetv2==2.8.1 batchgenerators==0.25.1, then add "
        "nnunet=nnunet/bin/python",
    ),
    "monai": ("MONAI", "pip install 'monai>=1.6.1', or name another Python that has it with monai=PATH"),
    "surface_distance": ("surface-distance", "pip install surface-distance, or name another Python with monai=PATH"),
}


@dataclass(frozen=True)
class Setup:
    """One run of a suite."""

    scratch: Path
    """A folder for inputs, removed afterwards."""
    progress: Progress
    size: Size = "full"
    threads: int = 1
    device: str = "cpu"
    turns: int = 5
    nnunet: Path | None = None
    """A Python that has nnunetv2."""
    monai: Path | None = None
    """A Python that has MONAI and surface-distance; this one without."""
    dataset: Dataset | None = None
    """Real cases; drawn ones without."""
    model: Path | None = None
    """A trained nnU-Net model folder for the dataset; random weights without."""
    missing: list[str] = field(default_factory=list)
    """What could not be compared."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of whoever took part."""

    def of(self, smoke: _T, full: _T) -> _T:
        """What fits the size."""
        return smoke if self.size == "smoke" else full

    def python(self, module: str) -> Path | None:
        """The Python that has a peer's module, or None with a line in ``missing`` that says how to get it."""
        name, how = _HOW[module]
        path = self.nnunet if module == "nnunetv2" else self.monai or Path(sys.executable)
        if path is not None and _has(path, module):
            return path
        line = f"{name} is not compared: {how}."
        if line not in self.missing:
            self.missing.append(line)
        return None

    def compete(
        self, title: str, first: Side, second: Side | None = None, gate: Gate | None = None, turns: int | None = None
    ) -> Found:
        """Two sides' contest with this run's turns and threads; remembers their versions."""
        turns = turns or self.turns
        self.progress.start(title, turns)
        mine, other, said = compete(first, second, turns, self.threads, self.progress, gate)
        self.versions[first.name] = mine.versions
        if second is not None and other is not None:
            self.versions[second.name] = other.versions
        return mine, other, said

    def folder(self, name: str) -> Path:
        """A new folder for inputs."""
        path = self.scratch / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """The real dataset's cases, if one is named."""
        return self.dataset.cases if self.dataset else ()

    @cached_property
    def held_out(self) -> tuple[Case, ...]:
        """Those of fold 0, on which a model of fold 0 was not trained (medseg's folds are nnU-Net's)."""
        if self.dataset is None:
            return ()
        names = set(make_folds(self.dataset).folds[0].validation)
        return tuple(case for case in self.cases if case.name in names)


def _has(python: Path, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    try:
        return subprocess.run([str(python), "-c", code], capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False
