"""Which images 'medseg pretrain' learns from, and the training that restores them, in a workspace inside the workspace.

Knows nothing of how a training runs. The folder ``pretrained`` is a model as it stands: its plan, labels that name no
structure, and the trained folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medseg.arrays import Triple
from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import Fold, Folds
from medseg.cases.labels import LabelTable
from medseg.commands.train_job import TrainJob, read_job
from medseg.errors import DatasetError, SettingsError
from medseg.paths import Workspace
from medseg.planning.override import Shorthands
from medseg.planning.plan import ConfigurationName, ConfigurationPlan, TrainingPlan
from medseg.planning.pretraining import Pretraining, as_pretraining, default_block
from medseg.settings import Seconds, Settings, build, require_known

NO_LABELS = LabelTable(labels=(), ignore=1)
"""The labels of an image that has none: background, and what lies outside of it, which is not to be restored."""
_HELD_OUT = 10
"""Of a folder's images every tenth is held out, to measure on."""


class PretrainSettings(Settings):
    """Settings of ``medseg pretrain``; the plan's own values (patch_size, network.name, ...) are taken too."""

    images: Path | None = None
    """A folder of images without labels, named as for 'medseg predict'; by default those of the dataset (its labels are
    not used, its test set is not opened)."""
    fold: int | Literal["full"] = 0
    """Whose held-out cases are left out, so that its scores stay honest; full uses every image of the dataset."""
    hidden: float = Field(default=0.75, gt=0, lt=1)
    """Share of each patch that is hidden."""
    block: Triple | None = None
    """Size of the hidden blocks in voxels; by default a voxel of the network's coarsest stage, at most 16."""
    workspace: Path | None = None
    """A folder that 'medseg plan' has written; by default the one last used from here."""
    configuration: ConfigurationName | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    budget: Seconds | None = None
    """Time for it, such as 15min or 2h; by default what the plan says for a training."""
    iterations: PositiveInt | None = None
    """Number of optimizer steps; wins over budget."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    devices: PositiveInt = 1
    """Number of GPUs (or CPU processes) that share each batch."""
    resume: bool = False
    """Continue an interrupted run from its newest checkpoint, to the same result; with iterations= or budget= give it,
    or a finished one, another length."""
    restart: bool = False
    """Delete an earlier run and begin anew."""
    workers: int = Field(default=-1, ge=-1)
    """Processes that load patches; -1 chooses: none on a CPU, up to 4 with a GPU."""
    save_every: Seconds = 120.0
    """Longest time between two checkpoints."""


SETTINGS = (PretrainSettings, ConfigurationPlan, TrainingPlan, Shorthands)
_OWN = {"images", "hidden", "block"}


def read_pretraining(words: Mapping[str, str]) -> TrainJob:
    """The training of the workspace, as one that restores images, in a workspace of its own inside it.

    Raises SettingsError, PlanError or DatasetError.
    """
    for key in words:
        require_known(key, SETTINGS)
    own = {key: text for key, text in words.items() if key in PretrainSettings.model_fields}
    settings = build(PretrainSettings, own)
    job = read_job({key: text for key, text in words.items() if key not in _OWN})
    if job.configuration.previous is not None:
        raise SettingsError(f"'{job.name}' is a cascade, which begins with the network before it; choose another one.")
    cases, held_out = _images(job, settings)
    names, folds = {case.name: case.name for case in cases}, (Fold(validation=held_out),)
    # What is restored is a brightness: nothing that another head says of classes.
    plain = job.configuration.network.model_copy(update={"head": "plain"})
    configuration = job.configuration.model_copy(update={"network": plain})
    configurations = {**job.plan.configurations, job.name: configuration}
    training = as_pretraining(job.plan.training)
    count = settings.fold + 1 if isinstance(settings.fold, int) else 0
    return replace(
        job,
        words={key: text for key, text in words.items() if key != "images"},
        workspace=Workspace(job.workspace.folder / "pretrained"),
        plan=job.plan.model_copy(update={"training": training, "configurations": configurations}),
        configuration=configuration,
        dataset=Dataset(job.dataset.name, job.dataset.channels, NO_LABELS, cases),
        table=NO_LABELS,
        folds=Folds(rule="those of the training", seed=job.folds.seed, cases=names, folds=folds * count),
        pretraining=_pretraining(job, settings),
    )


def _pretraining(job: TrainJob, settings: PretrainSettings) -> Pretraining:
    block, patch = settings.block or default_block(job.configuration.network), job.configuration.patch_size
    if min(block) < 1 or all(length >= size for length, size in zip(block, patch, strict=True)):
        raise SettingsError(
            f"block={list(block)} should be at least [1,1,1] and smaller than the patch, {list(patch)}."
        )
    images = "dataset" if settings.images is None else "folder"
    return Pretraining(hidden=settings.hidden, block=block, images=images)


def _images(job: TrainJob, settings: PretrainSettings) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The Cases, without labels, and the names of those that are held out."""
    if settings.images is None:
        held_out = job.folds.split(settings.fold)[1]
        kept_back = (*job.dataset.test, *(case for case in job.dataset.cases if case.name in held_out))
        patients = {case.group for case in kept_back}
        more = (case for case in job.dataset.unlabelled if case.group not in patients)
        cases = sorted((*job.dataset.cases, *more), key=lambda case: case.name)
        return tuple(replace(case, labels=None) for case in cases), held_out
    from medseg.inference.inputs import find_cases

    cases, complaints = find_cases(settings.images, [channel.name for channel in job.plan.channels])
    if complaints:
        raise DatasetError(f"{len(complaints)} case(s) in {settings.images} can't be used:", complaints)
    if settings.fold == "full" or len(cases) == 1:
        return tuple(cases), ()
    return tuple(cases), tuple(case.name for case in cases[::_HELD_OUT])
