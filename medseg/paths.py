"""Every folder and file of a workspace, named once; and where the shipped rooms (presets, recipes) lie.

Knows names only: nothing here opens a file, except the note of the workspace last used from a folder.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import MedsegError
from medseg.files import write_text

RUNS = Path("runs")
_LAST_USED = RUNS / "last_used.json"


@dataclass(frozen=True)
class Workspace:
    """The folder of one Dataset's results."""

    folder: Path

    @property
    def fingerprint(self) -> Path:
        return self.folder / "fingerprint.json"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.yaml"

    @property
    def picture(self) -> Path:
        """The dataset and what the plan's networks see of it."""
        return self.folder / "plan.png"

    @property
    def labels(self) -> Path:
        return self.folder / "labels.yaml"

    @property
    def dataset(self) -> Path:
        """Which Dataset this workspace was planned for: the list of its cases and files."""
        return self.folder / "dataset.yaml"

    @property
    def folds(self) -> Path:
        return self.folder / "folds.yaml"

    @property
    def selection(self) -> Path:
        """Which configurations predict, and with which post-processing."""
        return self.folder / "selection.json"

    @property
    def calibration(self) -> Path:
        """How far probabilities can be trusted."""
        return self.folder / "calibration.json"

    @property
    def familiarity(self) -> Path:
        """What images the model was checked on, and how far another one is from them."""
        return self.folder / "familiarity.json"

    @property
    def test(self) -> Path:
        """One folder for every look at the test set."""
        return self.folder / "test"

    def prepared(self, configuration: str) -> Path:
        return self.folder / "prepared" / configuration

    def fold(self, configuration: str, fold: int | str) -> Path:
        return self.folder / configuration / f"fold_{fold}"

    def weights(self, configuration: str, fold: int | str) -> Path:
        """The trained network of one fold."""
        return self.fold(configuration, fold) / "weights.safetensors"

    def remember(self) -> None:
        """Note that this is the workspace last used from the current folder, unless nothing can be written there."""
        with suppress(MedsegError):  # a read-only folder is no reason to refuse the work itself
            write_text(_LAST_USED, json.dumps({"workspace": str(self.folder.resolve())}) + "\n")


def last_used() -> Workspace:
    """The workspace last used from the current folder. Raises MedsegError when there is none."""
    try:
        return Workspace(Path(json.loads(_LAST_USED.read_text())["workspace"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise MedsegError(
            f"No workspace has been used from {Path.cwd()} yet. "
            "Run 'medseg plan' first, or name one with workspace=DIR."
        ) from None


def shipped(room: str) -> Path:
    """The folder of ``plans``, ``datasets``, ``apps`` or ``federated``: inside a wheel, or beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / "shipped" / room
    return inside if inside.is_dir() else package.parent / room


def shipped_names(room: str) -> list[str]:
    """Names of the YAML files in a shipped room, without suffix, sorted."""
    return sorted(path.stem for path in shipped(room).glob("*.yaml"))
