"""How a Case is predicted: what the user may choose between speed, quality and memory. Nothing here is the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor, nn

    from medseg.inference.model import Networks
    from medseg.inference.passes import PreparedImage
    from medseg.preprocessing.grid import Grid

Combine = Literal["probabilities", "logits", "nnunet"]
"""What is averaged; nnunet: logits in half precision and with its weights, to meet nnU-Net's labels to the voxel."""
Mirror = bool | Literal["turns"]
"""Whether mirror images are averaged: all, none, or only half-turns (an even number of flipped axes), which are half as
many and in which left is still left of right."""
Quality = Literal["fast", "balanced", "best"]
"""How much work is done for a Case."""
DEFAULT_QUALITY: Quality = "balanced"


@dataclass(frozen=True)
class Effort:
    """What a quality stands for."""

    mirror: Mirror
    step: float


EFFORTS: dict[Quality, Effort] = {
    "fast": Effort(mirror=False, step=0.8),
    "balanced": Effort(mirror="turns", step=0.5),
    "best": Effort(mirror=True, step=0.5),
}
"""best is nnU-Net's own way; what the others lose and win is measured by tests/benchmarks/quality.py. Of the sets of
two or three flips, and of the groups of four, half-turns lost least there."""


def flip_sets(axes: Iterable[int], mirror: Mirror) -> list[tuple[int, ...]]:
    """The sets of axes to flip, nothing first: all ``2 ** d`` of them, none but nothing, or those of even size."""
    axes = sorted(set(axes)) if mirror else []
    sizes = range(0, len(axes) + 1, 2 if mirror == "turns" else 1)
    return [chosen for count in sizes for chosen in combinations(axes, count)]


@runtime_checkable
class Accumulator(Protocol):
    """What takes the members' probabilities as they are computed, so that they are never kept for a whole image."""

    def add(self, index: int, rows: Sequence[Tensor]) -> None:
        """Probabilities ``(K, Y, X)`` of every member on row ``index`` of the crop box, network axes, ascending.

        Behind them come the channels of ``Options.spread``, where there is one. Float32 on the device that adds up;
        valid until the next call.
        """
        ...


@runtime_checkable
class Spread(Protocol):
    """What is averaged beside the probabilities, so that members' disagreement is known (``medseg.uncertainty``)."""

    channels: int
    """How many numbers of a voxel come behind its probabilities."""
    is_of_mirror_images: bool
    """Whether each mirror image is a member; else those of a network are averaged before."""
    takes_logits: bool
    """Whether members are found in logits (``of_logits``), and not in what is made of them (``of``)."""
    logits_per_class: int
    """How many of them each of the ``members`` gives for a class; more than one only where logits are taken."""

    def members(self, networks: Sequence[nn.Module]) -> Sequence[nn.Module]:
        """Those whose disagreement is watched: the networks themselves, or samples of each."""
        ...

    def of(self, probabilities: Tensor) -> Tensor:
        """What is averaged over members: ``(B, K, ...)`` becomes ``(B, K + channels, ...)``."""
        ...

    def of_logits(self, logits: Tensor) -> Tensor:
        """The same as ``of``, by float32 logits ``(B, K * logits_per_class, ...)``."""
        ...

    def finish(self, scores: Tensor) -> Tensor:
        """Averages ``(K + channels, ...)`` on the prepared grid as they are to be interpolated, in as many channels."""
        ...

    def accumulator(self, grid: Grid) -> Accumulator:
        """What is to see the rows of one Case."""
        ...


@runtime_checkable
class Judged(Protocol):
    """What was said of one image."""

    @property
    def warning(self) -> str | None:
        """A sentence where it is unlike those that the model was checked on."""
        ...


@runtime_checkable
class Judge(Protocol):
    """What looks at an image before anybody believes its prediction (``medseg.uncertainty``)."""

    def __call__(self, prepared: PreparedImage, model: Networks) -> Judged:
        """Compare it with those that the model was checked on."""
        ...


@dataclass(frozen=True)
class Options:
    """How a Case is predicted; nothing here changes what the model is."""

    device: torch.device
    mirror: Mirror = EFFORTS[DEFAULT_QUALITY].mirror
    """Average over the flips that were allowed in training, or over the half-turns among them."""
    step: float = EFFORTS[DEFAULT_QUALITY].step
    tile_batch: int | None = None
    combine: Combine = "probabilities"
    postprocess: bool = True
    """Apply the component rules that ``medseg select`` has learned, where the model has any."""
    max_memory: int | None = None
    """Bytes that the program may use in all; by default what the computer has free."""
    spread: Spread | None = None
    """What is known of the members beside their mean; only for probabilities."""
    judge: Judge | None = None
    """What says whether an image is like those that the model was checked on."""
    scratch: Path | None = None
    """Folder for files of scores that the memory can't hold; without it there are none."""

    @classmethod
    def of(
        cls,
        quality: Quality,
        device: torch.device,
        mirror: Mirror | None = None,
        step: float | None = None,
        **more: Any,
    ) -> Options:
        """By a quality; ``mirror`` and ``step`` replace its own where they are given."""
        effort = EFFORTS[quality]
        return cls(
            device=device,
            mirror=effort.mirror if mirror is None else mirror,
            step=effort.step if step is None else step,
            **more,
        )
