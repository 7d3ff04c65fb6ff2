"""What a command did, kept beside its results as ``run.json``: words, settings and their sources, versions, times."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from medseg import __version__
from medseg.documents import Document

_NAMED = ("torch", "numpy", "scipy", "nibabel", "SimpleITK", "lightning-fabric")


class RunRecord(Document):
    """One run of one command."""

    kind: ClassVar[str] = "run"

    command: str
    words: dict[str, str]
    """As typed."""
    settings: dict[str, Any]
    """Every value that was used."""
    sources: dict[str, str]
    """Where each value came from: default, preset, plan or words."""
    versions: dict[str, str]
    machine: str
    finished: str
    """Date and time, UTC."""
    facts: dict[str, Any]
    """What the command measured: seconds, iterations, devices."""


def record_run(
    path: Path,
    command: str,
    words: Mapping[str, str],
    settings: Mapping[str, Any],
    sources: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Write ``run.json``."""
    versions = {"medseg": __version__, "python": platform.python_version()}
    for name in _NAMED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    RunRecord(
        command=command,
        words=dict(words),
        settings=dict(settings),
        sources=dict(sources),
        versions=versions,
        machine=f"{platform.machine()} {platform.system()}",
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=dict(facts),
    ).save(path)
