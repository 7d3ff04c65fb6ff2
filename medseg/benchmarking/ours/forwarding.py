"""G2, medseg's side: the forward pass alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.benchmarking.ours.recipes import recipe_in
from medseg.inference.sliding_window import autocast
from medseg.training.fold import new_network


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[None, dict[str, float]]]:
    """``folder`` holds the plan; a turn makes ``passes``."""
    device, recipe = torch.device(request["device"]), recipe_in(Path(request["folder"]))
    network = new_network(recipe).to(device).eval()
    configuration = recipe.configuration
    images = torch.randn(configuration.batch_size, recipe.channels, *configuration.patch_size, device=device)

    @torch.inference_mode()
    def work() -> tuple[None, dict[str, float]]:
        for _ in range(request["passes"]):
            with autocast(device):
                network(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return None, {}

    return work


def keep(result: None, folder: Path) -> None:
    """Only time is measured."""
