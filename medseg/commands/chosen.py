"""What several commands let the user choose in the same words: a workspace, and the folds of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medseg.commands.console import say
from medseg.paths import Workspace, last_used

FoldChoice = int | Literal["all", "full"] | tuple[int | Literal["full"], ...]
"""One fold, several, every one that is trained, or the one of every Case."""


def chosen_workspace(folder: Path | None, silent: bool = False) -> Workspace:
    """The named workspace, else the one last used from here, which is said unless ``silent``.

    Raises MedsegError when there is none.
    """
    if folder is not None:
        return Workspace(folder)
    workspace = last_used()
    if not silent:
        say(f"Workspace: {workspace.folder} (the one last used from here)")
    return workspace


def chosen_folds(folds: FoldChoice) -> tuple[int | str, ...] | None:
    """The folds to load; None stands for every numbered one, or for what the model itself has chosen."""
    if folds == "all":
        return None
    return folds if isinstance(folds, tuple) else (folds,)
