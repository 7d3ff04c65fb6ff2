"""The trainings of a comparison: a workspace for each choice and seed, in which ``medseg train`` runs by itself.

Each is a process of its own, so that its memory and processor time are its own, and nothing else differs from a
training that a user starts. Knows nothing of how they are judged.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from medseg.cases.formats import save_dataset
from medseg.commands.train_job import TrainJob, cases_of
from medseg.documents import Document
from medseg.errors import CheckpointError, MedsegError
from medseg.files import hash_content
from medseg.paths import Workspace
from medseg.planning.override import with_network
from medseg.planning.plan import Plan


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how."""

    job: TrainJob
    """The plan, dataset and folds that all share."""
    what: Literal["networks", "losses"]
    choices: tuple[str, ...]
    reference: str
    fold: int
    seeds: tuple[int, ...]
    iterations: int | None
    budget: float | None
    device: str
    folder: Path

    @property
    def told_budget(self) -> str:
        """What each training is given, in words."""
        training = self.job.plan.training
        iterations = self.iterations or (None if self.budget is not None else training.iterations)
        if iterations:
            return f"{iterations} iterations"
        seconds = self.budget or training.budget or 0
        return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:.3g} min"


@dataclass(frozen=True)
class Member:
    """One training."""

    choice: str
    seed: int
    plan: Plan
    workspace: Workspace


class _Record(Document):
    """What all trainings of a comparison share; ``shared.json``."""

    kind: ClassVar[str] = "comparison-shared"

    plan: str
    """Content hash of the common plan."""
    configuration: str
    fold: int
    iterations: int | None = None
    budget: float | None = None
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]


def members_of(comparison: Comparison) -> list[Member]:
    """Every training, seed by seed. Raises PlanError for a network that can't be what the plan wants."""
    found = []
    for seed in comparison.seeds:
        for choice in comparison.choices:
            plan = _plan_of(comparison, choice, seed)
            name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', choice)}_seed{seed}"
            found.append(Member(choice, seed, plan, Workspace(comparison.folder / name)))
    return found


def _plan_of(comparison: Comparison, choice: str, seed: int) -> Plan:
    job = comparison.job
    plan = with_network(job.plan, job.name, choice) if comparison.what == "networks" else job.plan
    changes: dict[str, Any] = {"seed": seed} | ({"loss": choice} if comparison.what == "losses" else {})
    reasons = plan.reasons | {f"training.{key}": "chosen to be compared" for key in changes}
    return plan.model_copy(update={"training": plan.training.model_copy(update=changes), "reasons": reasons})


def require_same(comparison: Comparison) -> None:
    """Note what all trainings share. Raises CheckpointError where the folder holds those of another plan or budget."""
    training, validation = cases_of(comparison.job, comparison.fold)
    shared = _Record(
        # A setting that a later version adds, left at its default, changes nothing.
        plan=hash_content(comparison.job.plan.model_dump(mode="json", exclude_defaults=True)),
        configuration=comparison.job.name,
        fold=comparison.fold,
        iterations=comparison.iterations,
        budget=comparison.budget,
        training_cases=tuple(case.name for case in training),
        validation_cases=tuple(case.name for case in validation),
    )
    path = comparison.folder / "shared.json"
    if path.is_file() and _Record.load(path) != shared:
        raise CheckpointError(
            f"{comparison.folder} holds trainings with another plan, fold or budget, which can't be compared with "
            "these. Delete them with restart=true, or keep both with output=DIR."
        )
    shared.save(path)


def train_member(comparison: Comparison, member: Member) -> None:
    """Train and validate, from where an interrupted training stopped; nothing where that is done.

    Raises MedsegError with the last lines of the training's log when it fails.
    """
    job, workspace = comparison.job, member.workspace
    fold = workspace.fold(job.name, comparison.fold)
    if (fold / "run.json").is_file():
        return
    _write_workspace(job, member)
    words = {"workspace": workspace.folder, "configuration": job.name, "fold": comparison.fold}
    words["device"] = comparison.device
    if (fold / "recipe.json").is_file():
        words["resume"] = "true"
    elif comparison.iterations is not None:
        words["iterations"] = comparison.iterations
    elif comparison.budget is not None:
        words["budget"] = comparison.budget
    _run_train(words, workspace.folder)


def _write_workspace(job: TrainJob, member: Member) -> None:
    """A workspace that shares the prepared arrays; written once."""
    workspace = member.workspace
    if workspace.plan.is_file():
        return
    workspace.folder.mkdir(parents=True, exist_ok=True)
    save_dataset(job.dataset, workspace.dataset)
    job.table.save(workspace.labels)
    job.folds.save(workspace.folds)
    shared, own = job.workspace.folder / "prepared", workspace.folder / "prepared"
    if not own.exists():
        try:
            own.symlink_to(shared.resolve(), target_is_directory=True)
        except OSError:  # a system without links prepares anew for each
            own.mkdir()
    member.plan.save(workspace.plan)


def _run_train(words: Mapping[str, Any], folder: Path) -> None:
    log = folder / "train.log"
    command = [sys.executable, "-m", "medseg", "train", *(f"{key}={value}" for key, value in words.items())]
    with log.open("a", encoding="utf-8") as stream:
        # This very interpreter with words that have been read: nothing of it comes from elsewhere.
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)  # noqa: S603
    if done.returncode:
        said = " ".join(log.read_text(encoding="utf-8").strip().splitlines()[-2:])
        raise MedsegError(f"A training of the comparison failed: {said} The whole log is {log}; start again to go on.")
