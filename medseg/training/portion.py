"""A portion of a training: from given weights some iterations on, to the next weights.

For those who interrupt a training to do something with its weights, such as averaging them with other hospitals'.
Knows nothing of them, nor of files. The loop, the patches and the losses are those of ``medseg train``, so a training
in portions gives the same bytes as one in a piece, and the patches of an iteration follow from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import lightning_fabric
from torch import Tensor, nn

from medseg.training.checkpoint import optimizer_tensors, restore_optimizer
from medseg.training.fold import new_loss, new_network
from medseg.training.loop import Step, train
from medseg.training.patches import PatchDataset, make_loader
from medseg.training.recipe import Recipe, build_optimizer
from medseg.training.schedule import Schedule

LossMaker = Callable[[nn.Module, nn.Module], nn.Module]
"""Gives the loss to train with, from that of the Recipe and the network."""


@dataclass(frozen=True)
class Portion:
    """What a portion of a training ends with."""

    weights: dict[str, Tensor]
    """The network's state, on the CPU."""
    optimizer: dict[str, Tensor]
    """What the optimizer remembers, for the portion that follows."""
    loss: float
    """Mean over its iterations."""
    rate_sum: float
    """Sum of the learning rates of its iterations."""


def train_portion(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    weights: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Tensor],
    first: int,
    end: int,
    make_loss: LossMaker | None = None,
    workers: int = 0,
) -> Portion:
    """Train iterations ``first`` to ``end - 1`` of a Recipe, beginning with these weights and optimizer state.

    ``optimizer_state`` is empty for a fresh one. Raises MedsegError when the loss is no longer a finite number.
    """
    network = new_network(recipe)
    network.load_state_dict(weights)
    optimizer = build_optimizer(network.parameters(), recipe.training.optimizer)
    module, wrapped = fabric.setup(network, optimizer)
    if optimizer_state:
        restore_optimizer(optimizer_state, optimizer)
    loss = new_loss(recipe)
    if make_loss is not None:
        loss = make_loss(loss, network)
    steps: list[Step] = []
    patches = PatchDataset(prepared, recipe.training_cases, recipe, fabric.global_rank, fabric.world_size)
    loader = make_loader(patches, first, end, workers)
    schedule = Schedule(recipe.parts)
    train(fabric, recipe, module, loss, wrapped, schedule, loader, first, steps.append, patches.cases_of)
    return Portion(
        weights={name: value.detach().cpu().clone() for name, value in network.state_dict().items()},
        optimizer={name: value.detach().cpu().clone() for name, value in optimizer_tensors(optimizer).items()},
        loss=fmean(step.loss for step in steps),
        rate_sum=sum(step.learning_rate for step in steps),
    )
