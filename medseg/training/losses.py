"""What training minimises: a weighted sum of losses on every output of the network.

Knows nothing of networks or data. By default soft Dice and cross-entropy with equal weight: nnU-Net's rule (Isensee et
al. 2021), its regions and its ignore label included; the others stand in ``loss_voxelwise``, ``loss_overlap`` and
``loss_shape``. Always computed in float32 (float64 for float64 logits), also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medseg.arrays import Spacing
from medseg.cases.labels import LabelTable
from medseg.planning.class_weights import ClassWeights
from medseg.planning.losses import WeightedLoss, parse_loss
from medseg.training import loss_evidential, loss_learned, loss_overlap, loss_shape, loss_voxelwise
from medseg.training.answers import Answers, LossSetting


def dice_cross_entropy(answers: Answers) -> Tensor:
    """Mean cross-entropy minus mean soft Dice of the targets; -1 is perfect.

    The background of classes takes no part in Dice. Voxels of the ignore index take no part in anything.
    """
    return loss_voxelwise.cross_entropy(answers) + loss_overlap.dice(answers)


LOSSES: dict[str, Callable[[Answers], Tensor]] = {
    "dice_ce": dice_cross_entropy,
    "dice": loss_overlap.dice,
    "ce": loss_voxelwise.cross_entropy,
    "generalised_dice": loss_overlap.generalised_dice,
    "tversky": loss_overlap.tversky,
    "focal_tversky": loss_overlap.focal_tversky,
    "lovasz": loss_overlap.lovasz,
    "focal": loss_voxelwise.focal,
    "topk_ce": loss_voxelwise.topk_cross_entropy,
    "boundary": loss_shape.boundary,
    "hausdorff": loss_shape.hausdorff,
    "cldice": loss_shape.cldice,
    "skeleton_recall": loss_shape.skeleton_recall,
    "smoothed_ce": loss_voxelwise.smoothed_cross_entropy,
    "soft_ce": loss_voxelwise.soft_cross_entropy,
    "generalised_ce": loss_voxelwise.generalised_cross_entropy,
    "symmetric_ce": loss_voxelwise.symmetric_cross_entropy,
    "bootstrap": loss_voxelwise.bootstrap,
    "soft_bootstrap": loss_voxelwise.soft_bootstrap,
    "evidential": loss_evidential.evidential,
    "learned": loss_learned.learned,
}
"""What each does is summed up in ``medseg.planning.losses``."""


class WeightedSum(nn.Module):
    """Losses of one output of the network, each with its weight."""

    def __init__(self, parts: Sequence[WeightedLoss], setting: LossSetting) -> None:
        super().__init__()
        self.parts, self.setting = tuple(parts), setting
        self.progress = 1.0
        """Share of the training that is done, for what is annealed."""

    def forward(self, logits: Tensor, labels: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)) -> Tensor:
        """Logits (B, K, Z, Y, X), label indices (B, Z, Y, X) int64, mm or any unit of a voxel's edges -> scalar."""
        with torch.autocast(logits.device.type, enabled=False):
            answers = Answers(logits, labels, self.setting, spacing, self.progress)
            first, *others = (part.weight * LOSSES[part.name](answers) for part in self.parts)
            return sum(others, first)


class DeepSupervision(nn.Module):
    """A loss on each of the network's outputs, weighted 1, 1/2, 1/4, ...; the coarsest has weight 0; the sum is 1.

    Labels are down-sampled to each output by nearest-exact. A network of ``depth`` stages has ``depth - 1`` outputs.
    """

    def __init__(self, loss: WeightedSum, depth: int, spacing: Spacing = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.loss, self.spacing = loss, spacing
        self.weights = supervision_weights(depth - 1)

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits finest first, each (B, K, *its own size), or one tensor; labels (B, Z, Y, X) int64 -> scalar."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, labels, self.spacing)
        if len(outputs) != len(self.weights):
            raise ValueError(f"the loss was built for {len(self.weights)} outputs but the network gave {len(outputs)}")
        terms = []
        for logits, weight in zip(outputs, self.weights, strict=True):
            if weight:
                size = logits.shape[2:]
                z, y, x = (s * old / new for s, old, new in zip(self.spacing, labels.shape[1:], size, strict=True))
                terms.append(weight * self.loss(logits, shrink_labels(labels, size), (z, y, x)))
            else:
                # An output without weight stays in the graph: several processes wait for every gradient.
                terms.append(0.0 * logits.float().sum())
        return torch.stack(terms).sum()


def tell_progress(loss: nn.Module, share: float) -> None:
    """Say how much of the training is done, 0 to 1, to a loss that wants to know."""
    for part in loss.modules():
        if isinstance(part, WeightedSum):
            part.progress = share


def supervision_weights(outputs: int) -> tuple[float, ...]:
    """Weight of each output, finest first."""
    raw = [0.5**i for i in range(outputs)]
    if outputs > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def shrink_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (B, Z, Y, X) at another size by nearest-exact: the voxel in which each new voxel's centre lies."""
    for axis, (old, new) in enumerate(zip(labels.shape[1:], size, strict=True), start=1):
        if old != new:
            # In whole numbers floor((i + 1/2) old / new) is exact.
            index = (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
            labels = labels.index_select(axis, index)
    return labels


def build_loss(
    text: str,
    batch_dice: bool,
    depth: int,
    table: LabelTable,
    spacing: Spacing = (1.0, 1.0, 1.0),
    class_weights: ClassWeights | None = None,
) -> nn.Module:
    """The loss that ``text`` names, ``dice_ce`` or ``dice_ce + 0.5*boundary``.

    It takes the network's outputs (a list, finest first, or one tensor) and labels (B, Z, Y, X) int64. ``depth`` is the
    network's number of stages; with deep supervision it gives one output less. Classes or regions, and what is ignored,
    follow the table; ``spacing`` is a voxel's, mm (z, y, x). Raises PlanError for an unknown name or a wrong weight.
    """
    setting = LossSetting(table, batch_dice, class_weights)
    return DeepSupervision(WeightedSum(parse_loss(text), setting), depth, spacing)
