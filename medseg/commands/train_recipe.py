"""The Recipe of one fold: the one on disk when a training is resumed, else a new one.

How long it goes on is settled in ``medseg.commands.train_length``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.commands.train_cascade import data_hash_of
from medseg.commands.train_job import Fold, TrainJob, cases_of, earlier_recipe
from medseg.commands.train_length import extend, iterations_in_time, settle_part, stops_early
from medseg.commands.train_start import settle_start
from medseg.commands.train_teacher import settle_teacher
from medseg.errors import CheckpointError, SettingsError
from medseg.planning.class_weights import ClassWeights, settle_class_weights
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.losses import parse_loss
from medseg.planning.plan import TrainingPlan
from medseg.progress import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.recipe import Recipe, Start, Teacher


def settle_recipe(job: TrainJob, fold: Fold, fabric: Fabric, progress: Progress) -> Recipe:
    """The Recipe on disk when resuming (with another length, where one is asked for), else a new one.

    It is written before the first step, and the same in every process.
    """
    from medseg.training.recipe import Recipe

    path = job.workspace.fold(job.name, fold) / "recipe.json"
    earlier = earlier_recipe(job, fold)
    if earlier is not None:
        _require_same(job, earlier, path.parent, fabric)
        recipe = extend(job, earlier, path.parent, fabric, progress)
    else:
        recipe = _new_recipe(job, fold, fabric, progress)
    fabric.barrier()
    if fabric.is_global_zero and recipe is not earlier:
        recipe.save(path)
    fabric.barrier()
    return Recipe.load(path)


def _require_same(job: TrainJob, earlier: Recipe, folder: Path, fabric: Fabric) -> None:
    if earlier.devices != fabric.world_size:
        raise CheckpointError(
            f"{folder} was begun with {earlier.devices} process(es) and can't go on with {fabric.world_size}, "
            f"which would draw other patches. Use devices={earlier.devices}, or begin anew with restart=true."
        )
    if earlier.data != data_hash_of(job, (*earlier.training_cases, *earlier.validation_cases)):
        before = f" (or those predicted by {job.configuration.previous})" if job.configuration.previous else ""
        raise CheckpointError(
            f"Images or labels{before} have changed since {folder} was begun. Put the old files back, or begin anew "
            "with restart=true."
        )


def _new_recipe(job: TrainJob, fold: Fold, fabric: Fabric, progress: Progress) -> Recipe:
    import torch

    from medseg.inference.model import preparation_of
    from medseg.preprocessing.store import shaping_hash
    from medseg.training.recipe import Recipe, settle_optimizer
    from medseg.training.schedule import Part, planned_stretch

    training, settings = job.plan.training, job.settings
    iterations = settings.iterations or (None if settings.budget is not None else training.iterations)
    budget = None if iterations else settings.budget if settings.budget is not None else training.budget
    if not iterations and not budget:
        raise SettingsError("Neither iterations nor a budget above 0 is known; give one, for example budget=15min.")
    _require_colour(job)
    _require_cycles(training, iterations)
    _require_head(job)
    class_weights = _settle_class_weights(job)
    train_cases, held_out = (tuple(case.name for case in cases) for cases in cases_of(job, fold))

    teacher: Teacher | None = None

    def recipe(steps: int, start: Start | None) -> Recipe:
        optimizer = settle_optimizer(training.optimizer, steps)
        settled = {"iterations": steps, "budget": budget, "optimizer": optimizer}
        return Recipe(
            configuration_name=job.name,
            configuration=job.configuration,
            training=training.model_copy(update=settled),
            # A sudden large step would undo what a trained network has learned.
            parts=(Part(stretch=planned_stretch(optimizer, steps, start is not None, training.snapshots)),),
            start=start,
            teacher=teacher,
            pretraining=job.pretraining,
            class_weights=class_weights,
            fold=fold,
            channels=len(job.plan.channels) + (len(job.table) - 1 if job.configuration.previous else 0),
            labels=job.table,
            plan=job.plan.content_hash(),
            preparation=preparation_of(job.plan),
            shaping=shaping_hash(job.table, job.plan, job.configuration),
            data=data_hash_of(job, (*train_cases, *held_out)),
            training_cases=train_cases,
            validation_cases=held_out,
            threads=torch.get_num_threads(),
            devices=fabric.world_size,
        )

    start = settle_start(job, recipe(1_000, None), fabric.is_global_zero)
    teacher = settle_teacher(job, recipe(1_000, None), fabric.is_global_zero)
    each = None
    if not iterations:
        assert budget is not None  # checked above
        iterations, each = iterations_in_time(job, recipe(1_000, start), budget, 0, fabric, progress)
    settled = recipe(iterations, start)
    stretch, early_stop = settled.parts[0].stretch, stops_early(training, budget)
    part = settle_part(job, settled, stretch, early_stop).model_copy(
        update={"budget": budget, "seconds_per_iteration": each}
    )
    return settled.model_copy(update={"parts": (part,)})


def _settle_class_weights(job: TrainJob) -> ClassWeights | None:
    kind, path = job.plan.training.class_weights, job.workspace.fingerprint
    if kind == "none":
        return None
    if not path.is_file():
        raise SettingsError(
            f"class_weights={kind} follows from how often each structure was seen, but {path} is missing. Run 'medseg "
            "plan' in this workspace, or leave class_weights out."
        )
    return settle_class_weights(kind, Fingerprint.load(path), job.table)


def _require_cycles(training: TrainingPlan, iterations: int | None) -> None:
    """Several snapshots need a fixed length that is long enough."""
    if training.snapshots == 1:
        return
    if training.early_stop:
        raise SettingsError("snapshots= lays out a training beforehand, so it can't end early. Leave early_stop= out.")
    if iterations and iterations < 2 * training.snapshots:
        raise SettingsError(f"{training.snapshots} snapshots need more than {iterations} iterations.")


def _require_head(job: TrainJob) -> None:
    """A loss of evidence or of alternatives needs a head that gives them, and classes that exclude one another."""
    head, losses = job.configuration.network.head, [part.name for part in parse_loss(job.plan.training.loss)]
    for name, given in (("evidential", "evidence"), ("learned", "what may be otherwise")):
        if name in losses and head != name:
            raise SettingsError(f"loss={name} needs a network that gives {given}. Add network.head={name}.")
    if head == "learned" and "learned" not in losses:
        raise SettingsError("network.head=learned learns what may be otherwise by its loss. Add loss=[dice,learned].")
    if head != "plain" and job.table.activation != "softmax":
        raise SettingsError(f"network.head={head} is for labels that exclude one another, not for regions.")


def _require_colour(job: TrainJob) -> None:
    from medseg.training.augmentation_colour import colour_channels

    asked = [name for name in ("stain", "colour") if getattr(job.plan.training.augmentation, name)]
    names = [channel.name for channel in job.plan.channels]
    if asked and colour_channels(names) is None:
        raise SettingsError(
            f"augmentation.{asked[0]} changes the channels red, green and blue, but the channels are "
            f"{', '.join(names)}. Leave it out."
        )
