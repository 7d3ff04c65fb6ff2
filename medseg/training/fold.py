"""One fold from its Recipe to its trained weights: build, resume, train, keep.

Knows nothing of how the numbers of the Recipe came about (``medseg.training.budget``), nor of how the held-out Cases
are scored afterwards (``medseg.training.validation``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from torch import nn

from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.progress import Progress
from medseg.training.augment import augment_batch
from medseg.training.checkpoint import forget_leftovers, load_newest, restore, save_checkpoint
from medseg.training.loop import patch_dice, train
from medseg.training.losses import build_loss
from medseg.training.patches import PatchDataset, make_loader
from medseg.training.recipe import Recipe, build_optimizer
from medseg.training.recorder import Recorder

_HELD_OUT_BATCHES = 2


def train_fold(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    folder: Path,
    progress: Progress,
    workers: int = 0,
    save_every_seconds: float = 120,
    tracker: Any = None,
) -> nn.Module:
    """Train from the newest checkpoint in ``folder``, or from the start; returns the trained network.

    Writes checkpoints, ``log.csv`` and finally ``weights.safetensors``. With the same Recipe the weights have the same
    bytes on CPU, whatever the number of workers and however often the training was interrupted.
    Raises CheckpointError for a damaged or foreign checkpoint, MedsegError when the loss is no longer finite.
    """
    network = new_network(recipe)
    optimizer = build_optimizer(network.parameters(), recipe.training.optimizer)
    if fabric.is_global_zero:
        forget_leftovers(folder)
    newest = load_newest(folder, recipe.content_hash())
    module, wrapped = fabric.setup(network, optimizer)
    if newest is not None:
        # After setup, so that the optimizer's tensors go to the device on which the network now is.
        restore(*newest, network, optimizer)
    done = newest[0].iteration if newest else 0

    def save(iteration: int, averages: dict[str, float | None]) -> None:
        if fabric.is_global_zero:
            save_checkpoint(folder, iteration, recipe.content_hash(), network, optimizer, averages)

    watch = held_out_watch(fabric, network, prepared, recipe)
    recorder = Recorder(folder, recipe.iterations, save, watch, progress, save_every_seconds, tracker)
    if newest is not None:
        recorder.resume(done, newest[0].loss, newest[0].dice)
    progress.start("Training", recipe.iterations)
    progress.advance(done)
    patches = PatchDataset(prepared, recipe.training_cases, recipe, fabric.global_rank, fabric.world_size)
    batches = make_loader(patches, done, recipe.iterations, workers)
    train(fabric, recipe, module, new_loss(recipe), wrapped, batches, done, recorder, patches.cases_of)
    progress.finish()
    if fabric.is_global_zero:
        save_weights(folder / "weights.safetensors", network.state_dict(), describe_weights(recipe))
    fabric.barrier()
    return network


def new_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a Recipe; its first weights follow from the seed."""
    torch.manual_seed(recipe.training.seed)
    configuration = recipe.configuration
    return build_network(configuration.network, configuration.dimensions, recipe.channels, recipe.classes)


def new_loss(recipe: Recipe) -> nn.Module:
    """The loss of a Recipe, over all outputs of its network."""
    configuration = recipe.configuration
    return build_loss(recipe.training.loss, configuration.batch_dice, len(configuration.network.features))


def describe_weights(recipe: Recipe) -> dict[str, Any]:
    """What a weights file says of itself, enough to build the network and predict without the workspace's plan."""
    return {
        "configuration_name": recipe.configuration_name,
        "configuration": recipe.configuration.model_dump(mode="json", exclude_none=True),
        "channels": recipe.channels,
        "classes": recipe.classes,
        "plan_hash": recipe.plan,
        "preparation": recipe.preparation,
        "iterations": recipe.iterations,
        "fold": recipe.fold,
        "mirror_axes": list(recipe.mirror_axes),
    }


def held_out_watch(
    fabric: lightning_fabric.Fabric, network: nn.Module, prepared: Path, recipe: Recipe
) -> Callable[[], float | None]:
    """A function that gives the Dice of a few patches of the held-out Cases, always the same ones, not augmented.

    It draws a curve to watch; the score of a training is that of whole Cases. None where nothing is held out, and in
    all processes but the first.
    """
    if not recipe.validation_cases or not fabric.is_global_zero:
        return lambda: None
    patches = PatchDataset(prepared, recipe.validation_cases, recipe, held_out=True)

    @torch.no_grad()
    def watch() -> float | None:
        network.eval()
        found = []
        for index in range(_HELD_OUT_BATCHES):
            images, labels = fabric.to_device(patches[index])
            images, labels = augment_batch(images, labels, recipe.configuration, None, index)
            with fabric.autocast():
                dice = patch_dice(network(images), labels)
            found += [dice] if dice is not None else []
        network.train()
        return sum(found) / len(found) if found else None

    return watch
