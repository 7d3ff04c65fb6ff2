"""The Recipe of one fold: the one on disk when a training is resumed, else a new one.

A time budget becomes a number of iterations here, by a short measurement.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from medseg.commands.train_job import Fold, TrainJob, TrainSettings, cases_of, earlier_recipe
from medseg.errors import CheckpointError, SettingsError
from medseg.progress import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.recipe import Recipe

_PROBE_SECONDS = (3.0, 10.0)
_PROBE_SHARE = 0.03


def settle_recipe(job: TrainJob, fold: Fold, fabric: Fabric, progress: Progress) -> Recipe:
    """The Recipe on disk when resuming, else a new one, written before the first step; the same in every process."""
    from medseg.preprocessing.store import data_hash
    from medseg.training.recipe import Recipe

    path = job.workspace.fold(job.name, fold) / "recipe.json"
    earlier = earlier_recipe(job, fold)
    if earlier is None:
        recipe = _new_recipe(job, fold, fabric, progress)
        if fabric.is_global_zero:
            recipe.save(path)
        fabric.barrier()
        return Recipe.load(path)
    if earlier.devices != fabric.world_size:
        raise CheckpointError(
            f"{path.parent} was begun with {earlier.devices} process(es) and can't go on with {fabric.world_size}, "
            f"which would draw other patches. Use devices={earlier.devices}, or begin anew with restart=true."
        )
    if earlier.data != data_hash(job.prepared, (*earlier.training_cases, *earlier.validation_cases)):
        raise CheckpointError(
            f"Images or labels have changed since {path.parent} was begun. Put the old files back, or begin anew with "
            "restart=true."
        )
    return earlier


def _new_recipe(job: TrainJob, fold: Fold, fabric: Fabric, progress: Progress) -> Recipe:
    import torch

    from medseg.inference.model import preparation_of
    from medseg.preprocessing.store import data_hash, shaping_hash
    from medseg.training.budget import iterations_within, seconds_per_iteration
    from medseg.training.recipe import Recipe, settle_optimizer

    training = job.plan.training
    given = job.settings.budget is not None
    iterations = job.settings.iterations or (None if given else training.iterations)
    budget = job.settings.budget if job.settings.budget is not None else training.budget
    if iterations is None and not budget:
        raise SettingsError("Neither iterations nor a budget above 0 is known; give one, for example budget=15min.")
    train_cases, held_out = (tuple(case.name for case in cases) for cases in cases_of(job, fold))

    def recipe(steps: int, measured: float | None) -> Recipe:
        settled = {"iterations": steps, "budget": budget, "optimizer": settle_optimizer(training.optimizer, steps)}
        return Recipe(
            configuration_name=job.name,
            configuration=job.configuration,
            training=training.model_copy(update=settled),
            fold=fold,
            channels=len(job.plan.channels),
            classes=len(job.table),
            plan=job.plan.content_hash(),
            preparation=preparation_of(job.plan),
            shaping=shaping_hash(job.table, job.plan, job.configuration),
            data=data_hash(job.prepared, (*train_cases, *held_out)),
            training_cases=train_cases,
            validation_cases=held_out,
            seconds_per_iteration=measured,
            threads=torch.get_num_threads(),
            devices=fabric.world_size,
        )

    if iterations is not None:
        return recipe(iterations, None)
    assert budget is not None  # checked above
    progress.note("Measuring how long an iteration takes ...")
    started = time.monotonic()
    probe_seconds = min(max(_PROBE_SHARE * budget, _PROBE_SECONDS[0]), _PROBE_SECONDS[1])
    workers = loader_workers(job.settings, fabric)
    each = seconds_per_iteration(fabric, recipe(1_000, None), job.prepared, probe_seconds, workers)
    each = float(f"{fabric.broadcast(each):.3g}")
    return recipe(iterations_within(budget, each, time.monotonic() - started), each)


def loader_workers(settings: TrainSettings, fabric: Fabric) -> int:
    """Processes that load patches: as asked, or none on a CPU and up to 4 with a GPU."""
    if settings.workers >= 0:
        return settings.workers
    return 0 if fabric.device.type == "cpu" else min(4, max((os.cpu_count() or 2) // 2, 1))
