"""How many iterations fit in a time budget, and how fast this machine trains: the two measured probes.

What is measured is written down by the caller (in the Recipe, in the Plan) and then only read.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import lightning_fabric
import torch

from medseg.cases.labels import Label, LabelTable
from medseg.networks.build import build_network
from medseg.planning.memory import forward_flops
from medseg.planning.plan import NetworkPlan
from medseg.training.distillation import Teachers
from medseg.training.fold import new_loss, new_network
from medseg.training.loop import Step, train
from medseg.training.losses import build_loss
from medseg.training.patches import PatchDataset, make_loader
from medseg.training.recipe import Recipe, build_optimizer
from medseg.training.schedule import Part, Schedule, planned_stretch

_WARM_UP = 2
_PRETENDED = 10**6
"""Iterations of the probe's schedule, which is never reached."""
_SAFETY = 0.95
"""Held-out checks and checkpoints take a share of the time, and the machine may be a little slower later."""


class _Enough(Exception):  # noqa: N818 (it ends the probe; nothing is wrong)
    pass


def seconds_per_iteration(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    seconds: float,
    workers: int = 0,
    teachers: Teachers | None = None,
) -> float:
    """Train a throw-away copy on the real data for about ``seconds`` and return the mean time of an iteration."""
    network = new_network(recipe)
    network = fabric.to_device(teachers.student(network, recipe.configuration) if teachers else network)
    optimizer = build_optimizer(network.parameters(), recipe.training.optimizer)
    patches = PatchDataset(prepared, recipe.training_cases, recipe, fabric.global_rank, fabric.world_size)
    # Every process stops by its own clock, so the loss must not wait for the others (as batch Dice does).
    loss = new_loss(recipe, batch_dice=False)
    started = time.monotonic()
    times: list[float] = []

    def after_step(step: Step) -> None:
        del step
        times.append(time.monotonic())
        if len(times) > _WARM_UP and times[-1] - started > seconds:
            raise _Enough

    module, wrapped = fabric.setup(network, optimizer) if fabric.world_size == 1 else (network, optimizer)
    with suppress(_Enough):
        train(
            fabric,
            recipe,
            module,
            loss,
            wrapped,
            Schedule([Part(stretch=planned_stretch(recipe.training.optimizer, _PRETENDED))]),
            make_loader(patches, 0, _PRETENDED, workers),
            0,
            after_step,
            str,
            teachers,
        )
    return (times[-1] - times[_WARM_UP - 1]) / (len(times) - _WARM_UP)


def iterations_within(budget_seconds: float, each_seconds: float, spent_seconds: float) -> int:
    """The number of iterations that fit in what is left of the budget; at least one."""
    return max(1, int((budget_seconds * _SAFETY - spent_seconds) / each_seconds))


def training_flops_per_second(device: str) -> float:
    """Measured speed of training a small U-Net: three times its forward FLOPs over the time of its fastest step.

    The fastest of several, because other work on the machine can only make a step slower. On a CPU that is busy all the
    while the threads' own time counts: a plan made in a busy hour would be too small for good. On CUDA the network is
    wider and its patch larger, in half precision as training is: a small one would measure how fast kernels are
    launched.
    """
    on_gpu = device == "cuda"
    width, edge = (32, 96) if on_gpu else (16, 32)
    plan = NetworkPlan(
        features=(width, 2 * width, 4 * width),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3),) * 3,
        encoder_convolutions=(2, 2, 2),
        decoder_convolutions=(2, 2),
    )
    patch, batch = (edge, edge, edge), 2
    network = build_network(plan, 3, 1, 3).to(device).train()
    table = LabelTable(labels=(Label(name="one", value=1), Label(name="two", value=2)))
    loss_function = build_loss("dice_ce", False, 3, table)
    images = torch.randn(batch, 1, *patch, device=device)
    labels = torch.randint(0, 3, (batch, *patch), device=device)
    times = []
    for _ in range(8):
        started, worked = time.monotonic(), time.process_time()
        network.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=on_gpu):
            outputs = network(images)
        loss = loss_function(outputs, labels)
        loss.backward()
        loss.item()
        passed, worked = time.monotonic() - started, time.process_time() - worked
        times.append(min(passed, worked / torch.get_num_threads()) if device == "cpu" else passed)
    return 3 * batch * forward_flops(plan, patch, channels=1, classes=3) / min(times)
