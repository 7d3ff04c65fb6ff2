"""One fold from its Recipe to its trained weights: build, resume, train, keep.

Knows nothing of how the numbers of the Recipe came about (``medseg.training.budget``), nor of how the held-out Cases
are scored afterwards (``medseg.training.validation``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from torch import Tensor, nn

from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.progress import Progress
from medseg.training.checkpoint import Course, forget_leftovers, load_newest, restore, save_checkpoint
from medseg.training.distillation import Teachers
from medseg.training.loop import Step, train
from medseg.training.losses import build_loss
from medseg.training.mining import ROUND
from medseg.training.patches import PatchDataset, make_loader
from medseg.training.recipe import Recipe, build_optimizer
from medseg.training.recorder import Recorder
from medseg.training.restoration import RestorationLoss
from medseg.training.schedule import Schedule
from medseg.training.watch import Watcher


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    network: nn.Module
    course: Course
    seconds_of_checks: float
    """Spent in this process on predicting held-out Cases."""
    steps: int
    """Iterations that this process did."""


def train_fold(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    folder: Path,
    progress: Progress,
    workers: int = 0,
    save_every_seconds: float = 120,
    tracker: Any = None,
    first_weights: Mapping[str, Tensor] | None = None,
    teachers: Teachers | None = None,
) -> Trained:
    """Train from the newest checkpoint in ``folder``, or from the start, to the end of the schedule.

    ``first_weights`` are those to begin with, instead of random ones, where there is no checkpoint yet.
    ``teachers`` are those that the Recipe names.
    Writes checkpoints, ``log.csv``, ``snapshot_1.safetensors``, ... at the end of every cycle of the learning rate but
    the last, and finally ``weights.safetensors``. With the same Recipe the weights have the same
    bytes on CPU, whatever the number of workers and however often the training was interrupted.
    Raises CheckpointError for a damaged or foreign checkpoint, MedsegError when the loss is no longer finite.
    """
    network = new_network(recipe)
    if first_weights is not None:
        network.load_state_dict(first_weights)
    student = teachers.student(network, recipe.configuration) if teachers else network
    optimizer = build_optimizer(student.parameters(), recipe.training.optimizer)
    if fabric.is_global_zero:
        forget_leftovers(folder)
    newest = load_newest(folder, recipe)
    module, wrapped = fabric.setup(student, optimizer)
    course = newest[0].course if newest else Course()
    if newest is not None:
        # After setup, so that the optimizer's tensors go to the device on which the network now is.
        restore(*newest, student, optimizer)
    set_gradient_scaler(fabric, newest[0].gradient_scaler if newest else None)

    def save(course: Course) -> None:
        if fabric.is_global_zero:
            save_checkpoint(folder, course, recipe, student, optimizer, fabric.strategy.precision.state_dict() or None)
            recorder.write_log()

    schedule = Schedule(recipe.parts, course.decays)
    recorder = Recorder(folder, course, schedule, save, progress, save_every_seconds, tracker)
    patches = PatchDataset(prepared, recipe.training_cases, recipe, fabric.global_rank, fabric.world_size)
    steps = AfterStep(course, schedule, Watcher(fabric, network, prepared, recipe), recorder, progress, patches)
    progress.start("Training", schedule.end)
    progress.advance(course.iteration)
    batches = _batches(patches, steps, recipe, workers)
    loss = new_loss(recipe)
    ends = recipe.parts[-1].stretch.ends[:-1]

    def after_step(step: Step) -> None:
        # Before the checkpoint: a training that goes on from it does not come by here again.
        if step.iteration in ends and fabric.is_global_zero:
            reached = steps.course.model_copy(update={"iteration": step.iteration})
            path = folder / f"snapshot_{1 + ends.index(step.iteration)}.safetensors"
            save_weights(path, network.state_dict(), describe_weights(recipe, reached))
        steps(step)

    found = patches.cases_of
    train(fabric, recipe, module, loss, wrapped, schedule, batches, course.iteration, after_step, found, teachers)
    progress.finish()
    if fabric.is_global_zero:
        save_weights(folder / "weights.safetensors", network.state_dict(), describe_weights(recipe, steps.course))
    fabric.barrier()
    return Trained(network, steps.course, steps.watcher.seconds, steps.course.iteration - course.iteration)


def _batches(patches: PatchDataset, steps: AfterStep, recipe: Recipe, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    """All batches from where the course stands; hard patches are the same ones within a round, which is read ahead."""
    first, end = steps.course.iteration, recipe.iterations
    if not recipe.training.sampling.hard_patches:
        yield from make_loader(patches, first, end, workers)
        return
    while first < end:
        patches.hard = steps.course.mined.hard
        stop = min(end, (first // ROUND + 1) * ROUND)
        yield from make_loader(patches, first, stop, workers)
        first = stop


class AfterStep:
    """What follows every step: a look at the held-out Cases when it is due, a decision, a record."""

    def __init__(
        self,
        course: Course,
        schedule: Schedule,
        watcher: Watcher,
        recorder: Recorder,
        progress: Progress,
        patches: PatchDataset,
    ) -> None:
        self.course, self.watcher, self._patches = course, watcher, patches
        self._schedule, self._recorder, self._progress = schedule, recorder, progress

    def __call__(self, step: Step) -> None:
        """Take in the numbers of one step."""
        part, check = self._schedule.part_of(step.iteration), None
        if part.watch is not None and self._schedule.is_check(step.iteration):
            check = self.watcher.check(part.watch, step.iteration)
        origins = [self._patches.origin(step.iteration - 1, sample) for sample in range(len(step.errors))]
        self.course = self.course.after(step, check, origins)
        if check is not None:
            self._judge()
        self._recorder.record(step, self.course)

    def _judge(self) -> None:
        before, planned = self.course.decays, self._schedule.end
        self.course = self.course.judged(self._schedule)
        if self.course.decays == before:
            return
        self._progress.start("Training", self._schedule.end)
        self._progress.note(
            f"The Dice of whole held-out cases does not rise any more ({self.course.checks[-1].dice:.3f}): the rate "
            f"falls to 0 from here on, and training ends after {self._schedule.end} of {planned} iterations."
        )
        self._progress.advance(self.course.iteration - 1)


def set_gradient_scaler(fabric: lightning_fabric.Fabric, state: dict[str, int | float] | None) -> None:
    """The state of an earlier process, or a fresh one; float16 alone has it."""
    if fabric.strategy.precision.state_dict():
        fabric.strategy.precision.load_state_dict(state or torch.amp.GradScaler(fabric.device.type).state_dict())


def new_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a Recipe; its first weights follow from the seed. What is frozen takes no gradient."""
    torch.manual_seed(recipe.training.seed)
    configuration = recipe.configuration
    network = build_network(configuration.network, configuration.dimensions, recipe.channels, recipe.classes)
    for name in recipe.start.frozen if recipe.start else ():
        network.get_parameter(name).requires_grad_(False)
    return network


def new_loss(recipe: Recipe, batch_dice: bool | None = None) -> nn.Module:
    """The loss of a Recipe, over all outputs of its network; ``batch_dice`` replaces the Recipe's."""
    configuration = recipe.configuration
    if recipe.pretraining is not None:
        return RestorationLoss()
    return build_loss(
        recipe.training.loss,
        configuration.batch_dice if batch_dice is None else batch_dice,
        len(configuration.network.features),
        recipe.labels,
        configuration.spacing,
        recipe.class_weights,
    )


def describe_weights(recipe: Recipe, course: Course) -> dict[str, Any]:
    """What a weights file says of itself, enough to build the network and predict without the workspace's plan."""
    return {
        "configuration_name": recipe.configuration_name,
        "configuration": recipe.configuration.model_dump(mode="json", exclude_none=True),
        "channels": recipe.channels,
        "classes": recipe.classes,
        "activation": recipe.labels.activation,
        "plan_hash": recipe.plan,
        "preparation": recipe.preparation,
        "iterations": course.iteration,
        "parts": [part.stretch.model_dump(mode="json") for part in recipe.parts],
        "early_decays": [decay.model_dump(mode="json") for decay in course.decays],
        "fold": recipe.fold,
        "mirror_axes": list(recipe.mirror_axes),
        "start": recipe.start.model_dump(mode="json", exclude={"model"}) if recipe.start else None,
    } | _about_pretraining(recipe)


def _about_pretraining(recipe: Recipe) -> dict[str, Any]:
    """What the network restores and how that was learned; nothing where it finds structures."""
    if recipe.pretraining is None:
        return {}
    channels = [channel["name"] for channel in recipe.preparation["channels"]]
    return {"restores": channels, "restored_images": recipe.pretraining.images}
