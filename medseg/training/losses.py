"""What training minimises: soft Dice and cross-entropy with equal weight, on every output of the network.

Knows nothing of networks or data. Rules: nnU-Net (Isensee et al. 2021); soft Dice after Drozdzal et al. 2016. Always
computed in float32 (float64 for float64 logits), also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.errors import PlanError

_SMOOTH = 1e-5


class DiceCrossEntropy(nn.Module):
    """Mean cross-entropy minus mean soft Dice of the structures; -1 is perfect.

    Dice of a class is (2 I + s) / (P + G + s) with s = 1e-5: I the sum of its probabilities inside the structure, P the
    sum of its probabilities, G its voxels. The background takes no part. With ``batch_dice`` the sums run over the
    whole batch (over all ranks: each must then call it) before Dice is taken, otherwise each patch has its own.
    """

    def __init__(self, batch_dice: bool) -> None:
        super().__init__()
        self.batch_dice = batch_dice

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, Z, Y, X), labels (B, Z, Y, X) int64 -> scalar."""
        with torch.autocast(logits.device.type, enabled=False):
            exact = logits if logits.dtype == torch.float64 else logits.float()
            log_probabilities = F.log_softmax(exact, 1)
            cross_entropy = F.nll_loss(log_probabilities, labels)
            return cross_entropy - self._dice(log_probabilities.exp(), labels)

    def _dice(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        overlap, total = [], []
        # Class by class: a boolean volume at a time instead of a one-hot float volume of all classes. unbind's gradient
        # is one stack, where indexing would fill a volume of zeros for each class.
        for index, probability in enumerate(probabilities.unbind(1)[1:], start=1):
            inside = labels == index
            overlap.append((probability * inside).flatten(1).sum(1))
            total.append(probability.flatten(1).sum(1) + inside.flatten(1).sum(1))
        sums = torch.stack((torch.stack(overlap), torch.stack(total)))  # (2, K - 1, B)
        if self.batch_dice:
            sums = _sum_over_ranks(sums.sum(2, keepdim=True))
        return ((2 * sums[0] + _SMOOTH) / (sums[1] + _SMOOTH)).mean()


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


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduced gradient.

    Each rank computes the same loss of the sum; with the gradients of the ranks averaged afterwards (as data parallel
    training does) the result is the gradient of that loss for the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> Tensor:  # noqa: ARG004 (torch passes it)
        sums = sums.clone()
        dist.all_reduce(sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 (torch passes it)
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def _sum_over_ranks(sums: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return sums
    return _SumOverRanks.apply(sums)  # type: ignore[return-value]


LOSSES: dict[str, type[DiceCrossEntropy]] = {
    "dice_ce": DiceCrossEntropy,
}


def build_loss(name: str, batch_dice: bool, depth: int) -> nn.Module:
    """The named loss, taking the network's outputs (a list, finest first, or one tensor) and labels (B, Z, Y, X) int64.

    ``depth`` is the network's number of stages; with deep supervision it gives one output less. Raises PlanError for an
    unknown name.
    """
    if name not in LOSSES:
        raise PlanError(f"There is no loss '{name}'. Choose one of: {', '.join(LOSSES)}.")
    return DeepSupervision(LOSSES[name](batch_dice), depth)
