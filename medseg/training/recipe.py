"""The recipe of one training: everything that decides its result, settled before the first step and then only read.

The optimizer follows the number of iterations: nnU-Net's SGD needs a long schedule, AdamW learns from the first
hundred steps. Sources: nnU-Net v2 (SGD, momentum 0.99, poly 0.9); Loshchilov and Hutter 2019 (AdamW).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from medseg.cases.labels import LabelTable
from medseg.documents import Document, Record
from medseg.errors import CheckpointError, MedsegError
from medseg.files import hash_content
from medseg.planning.class_weights import ClassWeights
from medseg.planning.plan import ConfigurationName, ConfigurationPlan, OptimizerPlan, TrainingPlan
from medseg.planning.pretraining import Pretraining
from medseg.training.augmentation_colour import colour_channels
from medseg.training.schedule import Part

LONG = 25_000
"""From this many iterations on nnU-Net's SGD is used: 100 of its epochs, the shortest it still does well with."""
_LEARNING_RATES = {"sgd": 1e-2, "adamw": 2e-3}
_WEIGHT_DECAYS = {"sgd": 3e-5, "adamw": 1e-2}
_UNHURRIED, _MOST_HURRIED = 800, 3.0
"""AdamW's rate is 0.002 from 800 iterations on; a shorter schedule takes larger steps, at most three times as large."""


class Start(Record):
    """The trained model whose weights a training begins with."""

    model: str
    """The folder in which it was found; '.' for the workspace itself, wherever that is moved to."""
    identity: str
    """Hash of its weights and of its preparation, wherever they lie."""
    configuration: str
    fold: int | str
    parameters: dict[str, int]
    """How many were copied, adapted, new."""
    frozen: tuple[str, ...] = ()
    """Tensors that training leaves as they are."""


class Teacher(Record):
    """The trained model from whose probabilities a training learns as well."""

    model: str
    """The folder in which it was found."""
    identity: str
    """Hash of its weights and of its preparation, wherever they lie."""
    configuration: str
    folds: tuple[int | str, ...]
    """Their probabilities are averaged."""


class Recipe(Document):
    """What one fold's training does; ``recipe.json`` in the fold's folder."""

    kind: ClassVar[str] = "training-recipe"
    error: ClassVar[type[MedsegError]] = CheckpointError

    configuration_name: ConfigurationName
    configuration: ConfigurationPlan
    training: TrainingPlan
    """With the optimizer settled; how long it goes on stands in ``parts``."""
    parts: tuple[Part, ...] = Field(min_length=1)
    """How it was begun, and every extension or shortening since."""
    class_weights: ClassWeights | None = None
    """How much a voxel counts in losses of voxels, by question and answer; None for all alike."""
    start: Start | None = None
    """None where it begins with random weights."""
    teacher: Teacher | None = None
    """None where labels alone teach."""
    pretraining: Pretraining | None = None
    """What is hidden and restored; None where structures are learned."""
    fold: int | str
    channels: int
    """Of the network's input, those of a cascade's previous labels included."""
    labels: LabelTable
    """What is learned: its targets are sampled, trained and scored."""
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
    threads: int
    """CPU threads; another number adds in another order, so the last bits differ."""
    devices: int = 1
    """Processes that share each batch."""

    @property
    def is_cascade(self) -> bool:
        """Whether the labels of a previous configuration are an additional input."""
        return self.configuration.previous is not None

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The channels red, green and blue; None where the images have no colour."""
        return colour_channels([channel["name"] for channel in self.preparation.get("channels", ())])

    @property
    def structures_before(self) -> int:
        """Input channels for the previous configuration's labels: one for each structure, none outside of cascades."""
        return len(self.labels) - 1 if self.is_cascade else 0

    @property
    def classes(self) -> int:
        """Output channels of the network: those of the image where it is restored."""
        return self.channels if self.pretraining else self.labels.outputs

    @property
    def watchable_cases(self) -> tuple[str, ...]:
        """Held-out Cases whose Dice can be watched; none where no structures are learned."""
        return () if self.pretraining else self.validation_cases

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes on which training mirrors, and prediction may."""
        return self.training.mirror_axes if self.training.augmentation.mirror else ()

    @property
    def iterations(self) -> int:
        """As many as were asked for last; a plateau may end the training before."""
        return self.parts[-1].stretch.end

    def hash_at(self, iteration: int) -> str:
        """Hash of all that had a say in the first ``iteration`` steps; a later extension does not change it.

        Neither does a setting that a later version adds, where it is left at its default.
        """
        first, *later = self.parts
        begun = (first, *(part for part in later if part.stretch.start < iteration))
        return hash_content(self.model_copy(update={"parts": begun}).model_dump(mode="json", exclude_defaults=True))


def settle_optimizer(plan: OptimizerPlan, iterations: int) -> OptimizerPlan:
    """Replace 'auto' and missing numbers by what suits this many iterations."""
    name = plan.name if plan.name != "auto" else "sgd" if iterations >= LONG else "adamw"
    decay = plan.weight_decay if plan.weight_decay is not None else _WEIGHT_DECAYS[name]
    hurry = min(max(_UNHURRIED / iterations, 1), _MOST_HURRIED) if name == "adamw" else 1
    rate = plan.learning_rate or float(f"{_LEARNING_RATES[name] * hurry:.2g}")
    return OptimizerPlan(name=name, learning_rate=rate, weight_decay=decay, momentum=plan.momentum)


def optimizer_for_length(settled: OptimizerPlan, planned: int, iterations: int) -> OptimizerPlan:
    """The same optimizer for another number of iterations: a default rate follows it, one that was set stays."""
    unset = settled.model_copy(update={"learning_rate": None})
    was_default = settle_optimizer(unset, planned).learning_rate == settled.learning_rate
    return settle_optimizer(unset, iterations) if was_default else settled


def build_optimizer(parameters: Iterable[nn.Parameter], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """The optimizer of a settled plan, for the parameters that take a gradient."""
    assert plan.learning_rate is not None and plan.weight_decay is not None  # settled
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if plan.name == "sgd":
        nesterov = plan.momentum > 0  # without momentum there is nothing to look ahead with
        return torch.optim.SGD(
            parameters, lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=nesterov
        )
    return torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
