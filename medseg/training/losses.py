"""What training minimises: soft Dice and cross-entropy with equal weight, on every output of the network.

Knows nothing of networks or data. Rules: nnU-Net (Isensee et al. 2021), its regions and its ignore label included.
Always computed in float32 (float64 for float64 logits), also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.cases.labels import LabelTable
from medseg.errors import PlanError
from medseg.training.dice import any_of, soft_dice


class DiceCrossEntropy(nn.Module):
    """Mean cross-entropy minus mean soft Dice of the structures, for classes that exclude one another; -1 is perfect.

    The background takes no part in Dice (``soft_dice``). Voxels of the ignore index take no part in anything.
    """

    def __init__(self, batch_dice: bool, table: LabelTable) -> None:
        super().__init__()
        self.batch_dice, self.ignore = batch_dice, table.ignore_index

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, Z, Y, X), labels (B, Z, Y, X) int64 -> scalar."""
        with torch.autocast(logits.device.type, enabled=False):
            log_probabilities = F.log_softmax(_exact(logits), 1)
            known = None if self.ignore is None else labels != self.ignore
            # Class by class: a boolean volume at a time instead of a one-hot float volume of all classes. unbind's
            # gradient is one stack, where indexing would fill a volume of zeros for each class.
            structures = enumerate(log_probabilities.exp().unbind(1)[1:], start=1)
            dice = soft_dice(((p, labels == index) for index, p in structures), known, self.batch_dice)
            return self._cross_entropy(log_probabilities, labels, known) - dice

    def _cross_entropy(self, log_probabilities: Tensor, labels: Tensor, known: Tensor | None) -> Tensor:
        if known is None or self.ignore is None:
            return F.nll_loss(log_probabilities, labels)
        total = F.nll_loss(log_probabilities, labels, ignore_index=self.ignore, reduction="sum")
        return total / known.sum().clamp(min=1)


class DiceBinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy minus mean soft Dice of the regions, which may overlap; -1 is perfect.

    Every region takes part in Dice (``soft_dice``); voxels of the ignore index take no part in anything. Both means run
    over regions as well (nnU-Net's cross-entropy is their sum instead as soon as there is an ignore label).
    """

    def __init__(self, batch_dice: bool, table: LabelTable) -> None:
        super().__init__()
        self.batch_dice, self.ignore = batch_dice, table.ignore_index
        self.regions = [target.indices for target in table.targets]

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, R, Z, Y, X), label indices (B, Z, Y, X) int64 -> scalar."""
        with torch.autocast(logits.device.type, enabled=False):
            scores = _exact(logits).unbind(1)
            masks = [any_of(labels, indices) for indices in self.regions]
            known = None if self.ignore is None else labels != self.ignore
            weight = None if known is None else known.to(scores[0].dtype)
            count = labels.numel() if known is None else known.sum().clamp(min=1)
            total = torch.stack(
                [
                    F.binary_cross_entropy_with_logits(score, mask.to(score.dtype), weight, reduction="sum")
                    for score, mask in zip(scores, masks, strict=True)
                ]
            ).sum()
            found = ((score.sigmoid(), mask) for score, mask in zip(scores, masks, strict=True))
            return total / (count * len(scores)) - soft_dice(found, known, self.batch_dice)


def _exact(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class DeepSupervision(nn.Module):
    """A loss on each of the network's outputs, weighted 1, 1/2, 1/4, ...; the coarsest has weight 0; the sum is 1.

    Labels are down-sampled to each output by nearest-exact. A network of ``depth`` stages has ``depth - 1`` outputs.
    """

    def __init__(self, loss: nn.Module, depth: int) -> None:
        super().__init__()
        self.loss = loss
        self.weights = supervision_weights(depth - 1)

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits finest first, each (B, K, *its own size), or one tensor; labels (B, Z, Y, X) int64 -> scalar."""
        if isinstance(outputs, Tensor):
            return self.loss(outputs, labels)
        if len(outputs) != len(self.weights):
            raise ValueError(f"the loss was built for {len(self.weights)} outputs but the network gave {len(outputs)}")
        terms = []
        for logits, weight in zip(outputs, self.weights, strict=True):
            if weight:
                terms.append(weight * self.loss(logits, shrink_labels(labels, logits.shape[2:])))
            else:
                # An output without weight stays in the graph: several processes wait for every gradient.
                terms.append(0.0 * logits.float().sum())
        return torch.stack(terms).sum()


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


LOSSES: dict[str, dict[str, type[DiceCrossEntropy | DiceBinaryCrossEntropy]]] = {
    "dice_ce": {"softmax": DiceCrossEntropy, "sigmoid": DiceBinaryCrossEntropy},
}
"""By name, and by what makes probabilities of the network's outputs."""


def build_loss(name: str, batch_dice: bool, depth: int, table: LabelTable) -> nn.Module:
    """The named loss, taking the network's outputs (a list, finest first, or one tensor) and labels (B, Z, Y, X) int64.

    ``depth`` is the network's number of stages; with deep supervision it gives one output less. Classes or regions, and
    what is ignored, follow the table. Raises PlanError for an unknown name.
    """
    if name not in LOSSES:
        raise PlanError(f"There is no loss '{name}'. Choose one of: {', '.join(LOSSES)}.")
    return DeepSupervision(LOSSES[name][table.activation](batch_dice, table), depth)
