"""The training loop, on one screen.

Knows nothing of files: it is handed batches, and hands every step's numbers to ``after_step``. Devices, precision and
several processes come from Lightning Fabric. Recipe: nnU-Net v2 (Isensee et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import lightning_fabric
import torch
from torch import Tensor, nn

from medseg.errors import MedsegError
from medseg.networks.learned_noise import settled
from medseg.training.augment import augment_batch
from medseg.training.dice import patch_dice
from medseg.training.distillation import Teachers, finest_of, logits_of
from medseg.training.losses import tell_progress
from medseg.training.mining import errors_of
from medseg.training.recipe import Recipe
from medseg.training.restoration import hide
from medseg.training.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """What one iteration did."""

    iteration: int
    """Steps done, this one included."""
    loss: float
    dice: float | None
    """Foreground Dice of the training patches at full resolution; None where a batch holds no structure, or none
    is looked for."""
    learning_rate: float
    errors: tuple[float, ...] = ()
    """1 - Dice of every patch of the whole batch, where hard patches are looked for."""


def train(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    batches: Iterable[tuple[Tensor, Tensor]],
    first_iteration: int,
    after_step: Callable[[Step], None],
    cases_of: Callable[[int], str],
    teachers: Teachers | None = None,
) -> None:
    """Train from ``first_iteration`` to the end of the schedule, which ``after_step`` may bring forward.

    Batch i belongs to iteration ``first_iteration + i``; training also ends with the batches.
    Raises MedsegError, naming the iteration and its cases, when the loss is no longer a finite number.
    """
    plan, configuration = recipe.training, recipe.configuration
    network.train()
    for iteration, batch in enumerate(batches, first_iteration):
        if iteration >= schedule.end:
            return
        # Dropout and on-device noise follow from (seed, iteration): a resumed run draws the same numbers.
        torch.manual_seed(plan.seed * 1_000_003 + iteration)
        rate = schedule.rate_at(iteration)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = fabric.to_device(batch)
        images, labels = augment_batch(
            images,
            labels,
            configuration,
            plan,
            iteration,
            fabric.global_rank,
            recipe.structures_before,
            recipe.labels.outside_index,
            recipe.rgb,
        )
        if recipe.pretraining is not None:
            images, labels = hide(images, labels, recipe.pretraining, plan.seed, iteration, fabric.global_rank)
        optimizer.zero_grad(set_to_none=True)
        tell_progress(loss_function, iteration / schedule.end)
        output = network(images)
        finest = settled(finest_of(output).detach(), recipe.classes)
        loss = loss_function(logits_of(output), labels)
        if teachers is not None:
            loss = teachers.mix(fabric, loss, images, output)
        if not torch.isfinite(loss):
            raise _no_number("loss", loss, iteration, cases_of)
        fabric.backward(loss)
        norm = fabric.clip_gradients(network, optimizer, max_norm=plan.gradient_clip, error_if_nonfinite=False)
        # In float16 an overflow is expected now and then: its gradient scaler skips the step and goes on.
        if norm is not None and not torch.isfinite(norm) and fabric.strategy.precision.precision != "16-mixed":
            raise _no_number("gradient", norm, iteration, cases_of)
        optimizer.step()
        errors = _errors(fabric, finest, labels, recipe) if plan.sampling.hard_patches else ()
        dice = None if recipe.pretraining else patch_dice(finest, labels, recipe.labels)
        after_step(Step(iteration + 1, loss.item(), dice, rate, errors))


def _errors(fabric: lightning_fabric.Fabric, logits: Tensor, labels: Tensor, recipe: Recipe) -> tuple[float, ...]:
    """Of every patch of the whole batch, in its order: ranks have slices of it, perhaps of different lengths."""
    own = errors_of(logits, labels, recipe.labels).tolist()
    if fabric.world_size == 1:
        return tuple(own)
    batch, world, rank = recipe.configuration.batch_size, fabric.world_size, fabric.global_rank
    whole = torch.zeros(batch, dtype=torch.float64)
    whole[rank * batch // world : (rank + 1) * batch // world] = torch.tensor(own, dtype=torch.float64)
    summed = fabric.all_reduce(fabric.to_device(whole.float()), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return tuple(summed.tolist())


def _no_number(what: str, value: Tensor, iteration: int, cases_of: Callable[[int], str]) -> MedsegError:
    return MedsegError(
        f"The {what} became {value.item()} at iteration {iteration} on cases {cases_of(iteration)}. Look at these "
        "cases with 'medseg check', or train with a smaller optimizer.learning_rate."
    )
