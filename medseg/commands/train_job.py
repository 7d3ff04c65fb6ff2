"""Which training a command means: its settings, the workspace it works in, and the Cases of each fold.

Knows nothing of how a training runs; a fold that can't be started is refused here, before anything is prepared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset
from medseg.cases.labels import LabelTable
from medseg.commands.chosen import FoldChoice, chosen_workspace
from medseg.commands.executor import ExecutorSettings
from medseg.errors import CheckpointError, PlanError, SettingsError
from medseg.paths import Workspace
from medseg.planning.override import Shorthands, override_plan
from medseg.planning.plan import ConfigurationName, ConfigurationPlan, Plan, TrainingPlan
from medseg.planning.pretraining import Pretraining
from medseg.settings import Seconds, build, require_known

if TYPE_CHECKING:
    from medseg.training.recipe import Recipe


class TrainSettings(ExecutorSettings):
    """Settings of ``medseg train``; the plan's own values (patch_size, optimizer.learning_rate, ...) are taken too."""

    fold: int | Literal["all", "full"] = 0
    """Which fold is held out; all trains every fold, one after the other; full trains on every case, none held out."""
    workspace: Path | None = None
    """A folder that 'medseg plan' has written; by default the one last used from here."""
    configuration: ConfigurationName | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    budget: Seconds | None = None
    """Time for training, such as 15min or 2h; preparation and validation are not counted, what resume=true goes on from
    is."""
    iterations: PositiveInt | None = None
    """Number of optimizer steps, counted from the very beginning; wins over budget."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    devices: PositiveInt = 1
    """Number of GPUs (or CPU processes) on this machine that share each batch."""
    nodes: PositiveInt = 1
    """Number of machines; start the same command on each, or let the cluster do so."""
    init_from: Path | None = None
    """Begin with the weights of a bundle or workspace, as far as they fit, instead of random ones."""
    init_configuration: str | None = None
    """Which configuration of that model; by default the one of the same name."""
    init_fold: int | Literal["full"] | None = None
    """Which fold of that model; by default the one of the same number, else its first."""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: what was copied into the encoder stays as it is."""
    teacher: Path | None = None
    """Learn from the probabilities of this bundle or workspace as well as from labels (distillation.weight,
    distillation.temperature), for example a light network from a large one."""
    teacher_fold: FoldChoice | None = None
    """Which of its networks teach, averaged: a fold, several or all; by default the fold of the same number of the same
    dataset, else all."""
    resume: bool = False
    """Continue an interrupted training from its newest checkpoint, to the same result; with iterations= or budget=
    give it, or a finished one, another length."""
    restart: bool = False
    """Delete an earlier training of this fold and begin anew."""
    workers: int = Field(default=-1, ge=-1)
    """Processes that load patches; -1 chooses: none on a CPU, up to 4 with a GPU."""
    save_every: Seconds = 120.0
    """Longest time between two checkpoints."""
    validate_fold: bool = True
    """Predict and score the held-out cases afterwards."""
    tensorboard: bool = False
    """Also log for TensorBoard (needs the extra: pip install medseg[tensorboard])."""


SETTINGS = (TrainSettings, ConfigurationPlan, TrainingPlan, Shorthands)
Fold = int | Literal["full"]
_FREE_ON_RESUME = {"fold", "workspace", "configuration", "device", "devices", "nodes", "resume", "restart", "workers",
                   "save_every", "validate_fold", "tensorboard", "executor", "address", "cpus"}  # fmt: skip
"""Settings that do not change the result, or say which training is meant."""
LENGTH_WORDS = {"iterations", "budget", "early_stop"}
"""Settings that give a training on disk another length."""


@dataclass(frozen=True)
class TrainJob:
    """What all folds of one command share."""

    settings: TrainSettings
    words: Mapping[str, str]
    workspace: Workspace
    plan: Plan
    name: ConfigurationName
    configuration: ConfigurationPlan
    dataset: Dataset
    table: LabelTable
    folds: Folds
    pretraining: Pretraining | None = None
    """Where images are restored instead of structures found (``medseg pretrain``)."""

    @property
    def prepared(self) -> Path:
        """Where the prepared arrays lie; another way of preparing has another folder, so no training loses its own."""
        from medseg.preprocessing.store import shaping_hash

        return self.workspace.prepared(self.name) / shaping_hash(self.table, self.plan, self.configuration)[:12]


def read_job(words: Mapping[str, str]) -> TrainJob:
    """What the words and the workspace say together. Raises SettingsError, PlanError or DatasetError."""
    for key in words:
        require_known(key, SETTINGS)
    own = {key: text for key, text in words.items() if key in TrainSettings.model_fields}
    settings = build(TrainSettings, own)
    workspace = chosen_workspace(settings.workspace, silent=int(os.environ.get("LOCAL_RANK", "0")) > 0)
    if not workspace.plan.is_file():
        raise PlanError(f"There is no plan in {workspace.folder}. Run 'medseg plan dataset=DIR workspace=...' first.")
    plan = Plan.load(workspace.plan)
    name, _ = plan.configuration(settings.configuration)
    plan = override_plan(plan, name, {key: text for key, text in words.items() if key not in own})
    configuration = plan.configurations[name]
    dataset = read_dataset(workspace.dataset)
    workspace.remember()
    table, folds = LabelTable.load(workspace.labels), Folds.load(workspace.folds)
    return TrainJob(settings, words, workspace, plan, name, configuration, dataset, table, folds)


def require_startable(job: TrainJob, fold: Fold) -> None:
    """Raise before anything is prepared where a fold is trained already, or can not be resumed."""
    cases_of(job, fold)
    folder = job.workspace.fold(job.name, fold)
    if job.settings.resume and job.settings.restart:
        raise SettingsError("resume=true continues a training and restart=true deletes it; choose one.")
    settled = sorted(set(job.words) - _FREE_ON_RESUME - LENGTH_WORDS)
    if job.settings.resume and settled and (folder / "recipe.json").exists():
        raise SettingsError(
            f"resume=true continues the recipe in {folder}, which settles {', '.join(settled)} already; only "
            f"{', '.join(sorted(LENGTH_WORDS))} may change. Leave the other words out, or begin anew with restart=true."
        )
    if (folder / "recipe.json").exists() and not (job.settings.resume or job.settings.restart):
        state = "is trained already" if (folder / "weights.safetensors").exists() else "has an unfinished training"
        raise CheckpointError(
            f"{folder} {state}. resume=true continues (or scores) it, with iterations= or budget= to another length; "
            "restart=true deletes it and begins anew."
        )


def cases_of(job: TrainJob, fold: Fold) -> tuple[list[Case], list[Case]]:
    """The Cases to train on and those held out: by the Recipe on disk when resuming, else by the folds."""
    recipe = earlier_recipe(job, fold)
    names = (recipe.training_cases, recipe.validation_cases) if recipe else job.folds.split(fold)
    known = {case.name: case for case in job.dataset.cases}
    missing = [name for part in names for name in part if name not in known]
    if missing:
        raise CheckpointError(
            f"Fold {fold} needs the cases {', '.join(missing[:5])}, which are not in the dataset any more. "
            "Put them back, or begin anew with restart=true."
        )
    return [known[name] for name in names[0]], [known[name] for name in names[1]]


def earlier_recipe(job: TrainJob, fold: Fold) -> Recipe | None:
    """The Recipe of the training to resume. Raises CheckpointError when the Plan has changed since."""
    path = job.workspace.fold(job.name, fold) / "recipe.json"
    if not job.settings.resume or not path.exists():
        return None
    from medseg.preprocessing.store import shaping_hash
    from medseg.training.recipe import Recipe

    recipe = Recipe.load(path)
    if recipe.shaping != shaping_hash(job.table, job.plan, job.configuration):
        raise CheckpointError(
            f"The plan prepares images in another way than when {path.parent} was begun (spacing, normalisation or "
            "orientation differ). Put the old plan back, or begin anew with restart=true."
        )
    return recipe
