"""How much of a patch is hidden from a network that learns to restore it, and in blocks of which size.

Knows nothing of networks. Rule: masked autoencoders (He et al. 2022) for convolutional networks in three axes (Wald et
al. 2025): three quarters are hidden, in blocks as large as a voxel of the coarsest stage, so that nothing of a block
can be copied from inside it. A voxel of a very deep network is larger than what can be restored at all: 16 are enough.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.arrays import Triple
from medseg.documents import Record
from medseg.planning.plan import AugmentationPlan, NetworkPlan, SamplingPlan, TrainingPlan

_LARGEST_BLOCK = 16


class Pretraining(Record):
    """What a network restores, instead of finding structures."""

    hidden: float = Field(default=0.75, gt=0, lt=1)
    """Share of the blocks of a patch that are hidden."""
    block: Triple
    """Size of a block in voxels (z, y, x)."""
    images: Literal["dataset", "folder"]
    """Where the images come from: the dataset of the workspace, its labels unused, or a folder."""


def default_block(network: NetworkPlan) -> Triple:
    """A voxel of the network's coarsest stage, at most 16 voxels long."""
    z, y, x = (min(size, _LARGEST_BLOCK) for size in network.divisor)
    return z, y, x


def as_pretraining(training: TrainingPlan) -> TrainingPlan:
    """The training recipe without what needs labels, or would change the brightness of what is to be restored."""
    own = training.augmentation
    kept = {name: getattr(own, name) for name in ("rotation", "scaling", "mirror", "elastic")}
    off = dict.fromkeys(set(AugmentationPlan.model_fields) - set(kept), False)
    changes = {"foreground_share": 0.0, "sampling": SamplingPlan(), "class_weights": "none", "loss": "dice_ce"}
    return training.model_copy(update={**changes, "augmentation": AugmentationPlan(**kept, **off)})
