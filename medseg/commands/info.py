"""``medseg info``: version, devices, presets, networks and workspaces, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medseg import __version__
from medseg.commands.console import say, table
from medseg.documents import read_text
from medseg.errors import MedsegError
from medseg.paths import RUNS, Workspace, last_used, shipped, shipped_names
from medseg.planning.architectures import ARCHITECTURES
from medseg.planning.losses import LOSSES
from medseg.planning.presets import load_preset
from medseg.settings import Settings, build

_PACKAGES = ("torch", "lightning-fabric", "nibabel", "SimpleITK", "numpy", "scipy")


class InfoSettings(Settings):
    """Settings of ``medseg info``."""

    runs: Path = RUNS
    """Folder in which to look for workspaces."""


SETTINGS = (InfoSettings,)


def run(words: Mapping[str, str]) -> None:
    """Print what there is."""
    settings = build(InfoSettings, words)
    say(f"medseg {__version__}   " + "   ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    table("Devices", ("device", "what"), [("cpu", _cpu()), *(("cuda", gpu) for gpu in _gpus())])
    presets = [(name, load_preset(name).description) for name in shipped_names("plans")]
    table("Presets (medseg plan preset=NAME)", ("preset", "what"), presets)
    networks = [(a.name, "/".join(f"{d}D" for d in a.dimensions), a.summary) for a in ARCHITECTURES.values()]
    table("Networks (network.name=NAME)", ("network", "", "what"), networks)
    losses = [(loss.name, loss.summary) for loss in LOSSES.values()]
    table("Losses (loss=NAME, or a weighted sum: loss=dice_ce+0.5*boundary)", ("loss", "what"), losses)
    found = [
        row for folder in sorted(settings.runs.glob("*/plan.yaml")) if (row := _workspace(Workspace(folder.parent)))
    ]
    if found:
        table(f"Workspaces in {settings.runs}", ("workspace", "trained"), found)
    try:
        say(f"Last used from this folder: {last_used().folder}")
    except MedsegError:
        say("No workspace has been used from this folder yet.")
    say(f"Presets and recipes lie in {shipped('plans').parent}")


def _workspace(workspace: Workspace) -> tuple[str, str] | None:
    trained = sorted(
        str(path.parent.relative_to(workspace.folder)) for path in workspace.folder.glob("*/fold_*/weights.*")
    )
    return str(workspace.folder), ", ".join(trained) or "nothing yet"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        fields = dict(line.split(":", 1) for line in read_text(Path("/proc/meminfo")).splitlines())
        memory = f", {int(fields['MemTotal'].split()[0]) * 1024 / 2**30:.0f} GiB memory"
    except (MedsegError, KeyError, ValueError):
        memory = ""
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores{memory}"


def _gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    answer = subprocess.run(  # noqa: S603 (a fixed program with fixed arguments)
        [program, "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []
