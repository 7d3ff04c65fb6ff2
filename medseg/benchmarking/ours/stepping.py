"""C8, G1, G3, medseg's side: forward, loss, backward and optimizer step on one and the same batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medseg.benchmarking.ours.recipes import recipe_in
from medseg.inference.sliding_window import autocast
from medseg.training.fold import new_loss, new_network
from medseg.training.recipe import build_optimizer


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[None, dict[str, float]]]:
    """``folder`` holds the plan; a turn takes ``steps``; ``mode`` is eager, compile or graph (CUDA alone)."""
    device, recipe = torch.device(request["device"]), recipe_in(Path(request["folder"]))
    network, loss = new_network(recipe).to(device).train(), new_loss(recipe)
    optimizer = build_optimizer(network.parameters(), recipe.training.optimizer)
    parameters = [*network.parameters()]
    shape = (recipe.configuration.batch_size, *recipe.configuration.patch_size)
    images = torch.randn(shape[0], recipe.channels, *shape[1:], device=device)
    labels = torch.randint(0, len(recipe.labels), shape, device=device)
    forward = torch.compile(network) if request["mode"] == "compile" else network

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device):
            logits = forward(images)
        loss(logits, labels).backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.training.gradient_clip)
        optimizer.step()

    run = _graph_of(step, device) if request["mode"] == "graph" and device.type == "cuda" else step

    def work() -> tuple[None, dict[str, float]]:
        for _ in range(request["steps"]):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return None, {}

    return work


def _graph_of(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step recorded once and replayed, so that no kernel waits for Python."""
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def keep(result: None, folder: Path) -> None:
    """Two programs' random weights can't be compared."""
