"""``medseg pretrain``: a network learns to restore hidden parts of images, without labels, as a start for training.

A minute on a CPU after ``medseg plan``: ``medseg pretrain budget=1min && medseg train init_from=runs/NAME/pretrained``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from medseg.arrays import Triple
from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import Fold, Folds
from medseg.cases.labels import LabelTable
from medseg.commands.console import Bar, say
from medseg.commands.train import launch, prepare, record
from medseg.commands.train_job import TrainJob, read_job, require_startable
from medseg.commands.train_length import loader_workers
from medseg.commands.train_recipe import settle_recipe
from medseg.errors import DatasetError, SettingsError
from medseg.paths import Workspace
from medseg.planning.override import Shorthands
from medseg.planning.plan import ConfigurationName, ConfigurationPlan, TrainingPlan
from medseg.planning.pretraining import Pretraining, as_pretraining, default_block
from medseg.progress import Progress, Silent
from medseg.settings import Seconds, Settings, build, require_known

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.recipe import Recipe
    from medseg.training.restoration import Restored

_NOTHING = LabelTable(labels=(), ignore=1)
"""The labels of an image that has none: background, and what lies outside of it, which is not to be restored."""
_SHOWN, _MEASURED = 4, 20
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


def run(words: Mapping[str, str]) -> None:
    """Prepare the images, train, and show on held-out images what can be restored."""
    for key in words:
        require_known(key, SETTINGS)
    settings = build(
        PretrainSettings, {key: text for key, text in words.items() if key in PretrainSettings.model_fields}
    )
    job = _job(words, settings)
    fold = job.settings.fold
    assert fold != "all"  # PretrainSettings has no such fold
    require_startable(job, fold)
    with Bar() as bar:
        prepare(job, [fold], bar)
        fabric = launch(job.settings)
        _pretrain(job, fold, fabric, bar if fabric.is_global_zero else Silent())


def _job(words: Mapping[str, str], settings: PretrainSettings) -> TrainJob:
    """The training of the workspace, as one that restores images, in a workspace of its own inside it."""
    job = read_job({key: text for key, text in words.items() if key not in _OWN})
    if job.configuration.previous is not None:
        raise SettingsError(f"'{job.name}' is a cascade, which begins with the network before it; choose another one.")
    pretraining = Pretraining(
        hidden=settings.hidden,
        block=settings.block or default_block(job.configuration.network),
        images="dataset" if settings.images is None else "folder",
    )
    if min(pretraining.block) < 1 or all(
        b >= n for b, n in zip(pretraining.block, job.configuration.patch_size, strict=True)
    ):
        raise SettingsError(
            f"block={list(pretraining.block)} should be at least [1,1,1] and smaller than the patch, "
            f"{list(job.configuration.patch_size)}."
        )
    cases, held_out = _images(job, settings)
    names, folds = {case.name: case.name for case in cases}, (Fold(validation=held_out),)
    count = settings.fold + 1 if isinstance(settings.fold, int) else 0
    return replace(
        job,
        words={key: text for key, text in words.items() if key != "images"},
        workspace=Workspace(job.workspace.folder / "pretrained"),
        plan=job.plan.model_copy(update={"training": as_pretraining(job.plan.training)}),
        dataset=Dataset(job.dataset.name, job.dataset.channels, _NOTHING, cases),
        table=_NOTHING,
        folds=Folds(rule="those of the training", seed=job.folds.seed, cases=names, folds=folds * count),
        pretraining=pretraining,
    )


def _images(job: TrainJob, settings: PretrainSettings) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The Cases, without labels, and the names of those that are held out."""
    if settings.images is None:
        held_out = job.folds.split(settings.fold)[1]
        cases = sorted((*job.dataset.cases, *job.dataset.unlabelled), key=lambda case: case.name)
        return tuple(replace(case, labels=None) for case in cases), held_out
    from medseg.inference.inputs import find_cases

    cases, complaints = find_cases(settings.images, [channel.name for channel in job.plan.channels])
    if complaints:
        raise DatasetError(f"{len(complaints)} case(s) in {settings.images} can't be used:", complaints)
    if settings.fold == "full" or len(cases) == 1:
        return tuple(cases), ()
    return tuple(cases), tuple(case.name for case in cases[::_HELD_OUT])


def _pretrain(job: TrainJob, fold: int | Literal["full"], fabric: Fabric, progress: Progress) -> None:
    import shutil

    import torch

    from medseg.inference.devices import peak_memory_bytes
    from medseg.training.fold import train_fold

    started = time.monotonic()
    folder = job.workspace.fold(job.name, fold)
    if job.settings.restart and fabric.is_global_zero and folder.exists():
        shutil.rmtree(folder)
    if fabric.is_global_zero:  # what makes the folder a model
        job.plan.save(job.workspace.plan)
        job.table.save(job.workspace.labels)
    fabric.barrier()
    recipe = settle_recipe(job, fold, fabric, progress)
    torch.set_num_threads(recipe.threads)
    if fabric.is_global_zero:
        _announce(job, recipe, fabric)
    workers = loader_workers(job.settings, fabric)
    done = train_fold(fabric, recipe, job.prepared, folder, progress, workers, job.settings.save_every)
    if fabric.is_global_zero:
        trained = time.monotonic()
        restored = _restore(job, recipe, done.network)
        facts: dict[str, Any] = {"device": str(fabric.device), "processes": fabric.world_size, "steps": done.steps}
        facts["seconds"] = {"training": round(trained - started, 1)}
        facts["peak_memory_bytes"] = peak_memory_bytes(fabric.device)
        facts["restored_variance"] = {one.case: round(one.share, 4) for one in restored}
        record(job, recipe, folder, facts, "pretrain")
        _show(job, recipe, folder, restored)
    fabric.barrier()


def _announce(job: TrainJob, recipe: Recipe, fabric: Fabric) -> None:
    plan = recipe.pretraining
    assert plan is not None
    blocks, patch = ("x".join(map(str, size)) for size in (plan.block, recipe.configuration.patch_size))
    say(
        f"{job.name}: {len(recipe.training_cases)} images, {len(recipe.validation_cases)} held out; "
        f"{recipe.iterations} iterations of {recipe.configuration.batch_size} patches {patch} on {fabric.device}, of "
        f"which {plan.hidden:.0%} are hidden in blocks of {blocks} and restored."
    )


def _restore(job: TrainJob, recipe: Recipe, network: Any) -> list[Restored]:
    """The middle patches of held-out images, or of those that were trained on where none is held out."""
    from medseg.preprocessing.store import open_prepared
    from medseg.training.restoration import restore_patches

    names = (recipe.validation_cases or recipe.training_cases)[:_MEASURED]
    assert recipe.pretraining is not None
    cases = [open_prepared(job.prepared, name) for name in names]
    return restore_patches(network, cases, recipe.configuration.patch_size, recipe.pretraining, recipe.training.seed)


def _show(job: TrainJob, recipe: Recipe, folder: Path, restored: list[Restored]) -> None:
    import numpy as np

    from medseg.evaluation.example_pictures import Row, draw_examples
    from medseg.evaluation.pictures import draw_curves
    from medseg.training.recorder import read_log

    draw_curves(folder / "curves.png", read_log(folder / "log.csv"))
    seen = "held-out" if recipe.validation_cases else "training"
    blank = np.zeros(recipe.configuration.patch_size, np.uint8)
    rows = [
        Row(f"{one.case}  {one.share:.2f}", (one.image, one.seen, one.restored), (blank,) * 3)
        for one in restored[:_SHOWN]
    ]
    title = f"{seen} images: as they are, as the network sees them, and what it restores (share of the variance)"
    upright = job.plan.orientation == "canonical" and job.plan.axis_order == (0, 1, 2)
    draw_examples(folder / "restored.png", rows, _NOTHING, recipe.configuration.spacing, title, recipe.rgb, upright)
    shares = sorted(one.share for one in restored)
    say(
        f"Of the variance of hidden voxels {np.median(shares):.3f} is restored, from {shares[0]:.3f} to "
        f"{shares[-1]:.3f} (median and range of {len(shares)} {seen} images; 0 is what a constant gives, 1 is perfect)."
    )
    say(f"Before and after: {folder / 'restored.png'}\nTraining curve: {folder / 'curves.png'}")
    fold = f" fold={recipe.fold}" if recipe.pretraining and recipe.pretraining.images == "dataset" else ""
    say(f"Next: medseg train{fold} init_from={job.workspace.folder}")
