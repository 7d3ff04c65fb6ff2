"""The recipe of one training: everything that decides its result, settled before the first step and then only read.

The optimizer follows the number of iterations: nnU-Net's SGD needs a long schedule, AdamW learns from the first
hundred steps. Sources: nnU-Net v2 (SGD, momentum 0.99, poly 0.9); Loshchilov and Hutter 2019 (AdamW).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import nn

from medseg.documents import Document
from medseg.errors import CheckpointError, MedsegError
from medseg.planning.plan import ConfigurationName, ConfigurationPlan, OptimizerPlan, TrainingPlan

LONG = 25_000
"""From this many iterations on nnU-Net's SGD is used: 100 of its epochs, the shortest it still does well with."""
_LEARNING_RATES = {"sgd": 1e-2, "adamw": 2e-3}
_WEIGHT_DECAYS = {"sgd": 3e-5, "adamw": 1e-2}
_UNHURRIED, _MOST_HURRIED = 800, 3.0
"""AdamW's rate is 0.002 from 800 iterations on; a shorter schedule takes larger steps, at most three times as large."""
_WARMUP_SHARE = 0.03
_POLY_EXPONENT = 0.9


class Recipe(Document):
    """What one fold's training does; ``recipe.json`` in the fold's folder."""

    kind: ClassVar[str] = "training-recipe"
    error: ClassVar[type[MedsegError]] = CheckpointError

    configuration_name: ConfigurationName
    configuration: ConfigurationPlan
    training: TrainingPlan
    """With iterations and optimizer settled."""
    fold: int | str
    channels: int
    classes: int
    plan: str
    """Content hash of the Plan it came from."""
    preparation: dict[str, Any]
    """The Plan's orientation, axis order and channels, which a prediction has to share."""
    shaping: str
    """Hash of the Plan values that shape the prepared arrays (``medseg.preprocessing.store.shaping_hash``)."""
    data: str
    """Hash of the content of every file that was prepared for it."""
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    seconds_per_iteration: float | None = None
    """What the probe measured, where a time budget was turned into iterations."""
    threads: int
    """CPU threads; another number adds in another order, so the last bits differ."""
    devices: int = 1
    """Processes that share each batch."""

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes on which training mirrors, and prediction may."""
        return self.training.mirror_axes if self.training.augmentation.mirror else ()

    @property
    def iterations(self) -> int:
        assert self.training.iterations is not None  # settled before a Recipe is made
        return self.training.iterations


def settle_optimizer(plan: OptimizerPlan, iterations: int) -> OptimizerPlan:
    """Replace 'auto' and missing numbers by what suits this many iterations."""
    name = plan.name if plan.name != "auto" else "sgd" if iterations >= LONG else "adamw"
    decay = plan.weight_decay if plan.weight_decay is not None else _WEIGHT_DECAYS[name]
    hurry = min(max(_UNHURRIED / iterations, 1), _MOST_HURRIED) if name == "adamw" else 1
    rate = plan.learning_rate or float(f"{_LEARNING_RATES[name] * hurry:.2g}")
    return OptimizerPlan(name=name, learning_rate=rate, weight_decay=decay, momentum=plan.momentum)


def build_optimizer(parameters: Iterable[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """The optimizer of a settled plan."""
    assert plan.learning_rate is not None and plan.weight_decay is not None  # settled
    if plan.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=True
        )
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)


def learning_rate_at(iteration: int, iterations: int, plan: OptimizerPlan) -> float:
    """Learning rate of one step: polynomial decay over the whole budget; AdamW warms up over its first 3 %."""
    assert plan.learning_rate is not None  # settled
    warmup = round(_WARMUP_SHARE * iterations) if plan.name == "adamw" else 0
    if iteration < warmup:
        return plan.learning_rate * (iteration + 1) / (warmup + 1)
    return plan.learning_rate * (1 - (iteration - warmup) / max(iterations - warmup, 1)) ** _POLY_EXPONENT
