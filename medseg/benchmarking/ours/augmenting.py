"""G5, medseg's side: augmentation of a batch that lies on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.benchmarking.ours.recipes import recipe_in
from medseg.training.augment import augment_batch
from medseg.training.augmentation_spatial import initial_patch_size


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[None, dict[str, float]]]:
    """``folder`` holds the plan; a turn augments ``batches``."""
    device, recipe = torch.device(request["device"]), recipe_in(Path(request["folder"]))
    configuration, plan = recipe.configuration, recipe.training
    size = initial_patch_size(configuration, plan.augmentation)
    images = torch.randn(configuration.batch_size, recipe.channels, *size, device=device)
    labels = torch.randint(0, len(recipe.labels), (configuration.batch_size, *size), device=device, dtype=torch.uint8)

    def work() -> tuple[None, dict[str, float]]:
        for iteration in range(request["batches"]):
            augment_batch(images, labels, configuration, plan, iteration)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return None, {}

    return work


def keep(result: None, folder: Path) -> None:
    """Only time is measured."""
