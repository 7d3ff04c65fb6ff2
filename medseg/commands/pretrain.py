"""``medseg pretrain``: a network learns to restore hidden parts of images, without labels, as a start for training.

A minute on a CPU after ``medseg plan``: ``medseg pretrain budget=1min && medseg train init_from=runs/NAME/pretrained``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medseg.commands.console import Bar, say
from medseg.commands.pretrain_job import SETTINGS, read_pretraining
from medseg.commands.train import launch, prepare, record
from medseg.commands.train_job import TrainJob, require_startable
from medseg.commands.train_length import loader_workers
from medseg.commands.train_recipe import settle_recipe
from medseg.progress import Progress, Silent

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.recipe import Recipe
    from medseg.training.restoration import Restored

__all__ = ["SETTINGS", "run"]
_SHOWN, _MEASURED = 4, 20
"""Images in the picture, and those of which the restored share is told."""


def run(words: Mapping[str, str]) -> None:
    """Prepare the images, train, and show on held-out images what can be restored."""
    job = read_pretraining(words)
    fold = job.settings.fold
    assert fold != "all"  # PretrainSettings has no such fold
    require_startable(job, fold)
    with Bar() as bar:
        prepare(job, [fold], bar)
        fabric = launch(job.settings)
        _pretrain(job, fold, fabric, bar if fabric.is_global_zero else Silent())


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
    title = f"{seen} images: whole, hidden in part, restored (share)"
    upright = job.plan.orientation == "canonical" and job.plan.axis_order == (0, 1, 2)
    draw_examples(folder / "restored.png", rows, job.table, recipe.configuration.spacing, title, recipe.rgb, upright)
    shares = sorted(one.share for one in restored)
    say(
        f"Of the variance of hidden voxels {np.median(shares):.3f} is restored, from {shares[0]:.3f} to "
        f"{shares[-1]:.3f} (median and range of {len(shares)} {seen} images; 0 is what a constant gives, 1 is perfect)."
    )
    say(f"Before and after: {folder / 'restored.png'}\nTraining curve: {folder / 'curves.png'}")
    fold = f" fold={recipe.fold}" if recipe.pretraining and recipe.pretraining.images == "dataset" else ""
    say(f"Next: medseg train{fold} init_from={job.workspace.folder}")
