"""Dice of patches: soft, to learn from, and hard, to watch.

Knows nothing of networks. Soft Dice after Drozdzal et al. 2016, with nnU-Net's smoothing (Isensee et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medseg.cases.labels import LabelTable

_SMOOTH = 1e-5


def soft_dice(found: Iterable[tuple[Tensor, Tensor]], known: Tensor | None, batch_dice: bool) -> Tensor:
    """Mean soft Dice of targets, each given by its probabilities and its mask, both (B, Z, Y, X).

    Dice is (2 I + s) / (P + G + s) with s = 1e-5: I the sum of the probabilities inside the mask, P the sum of the
    probabilities, G the voxels of the mask; only voxels that are ``known`` count. With ``batch_dice`` the sums run over
    the whole batch (over all ranks: each must then call it) before Dice is taken, otherwise each patch has its own.
    """
    overlap, total = [], []
    for probability, mask in found:
        p, inside = (probability, mask) if known is None else (probability * known, mask & known)
        overlap.append((p * inside).flatten(1).sum(1))
        total.append(p.flatten(1).sum(1) + inside.flatten(1).sum(1))
    sums = torch.stack((torch.stack(overlap), torch.stack(total)))  # (2, targets, B)
    if batch_dice:
        sums = sum_over_ranks(sums.sum(2, keepdim=True))
    return ((2 * sums[0] + _SMOOTH) / (sums[1] + _SMOOTH)).mean()


def any_of(labels: Tensor, indices: Sequence[int]) -> Tensor:
    """Where any of the label indices stands, as a mask."""
    first, *others = indices
    mask = labels == first
    for index in others:
        mask |= labels == index
    return mask


def patch_dice(logits: Tensor, labels: Tensor, table: LabelTable) -> float | None:
    """Mean Dice over the targets present in a batch, from logits (B, K, Z, Y, X) and label indices (B, Z, Y, X).

    None where no target is there. Voxels of the ignore index do not count.
    """
    classes = None if table.activation == "sigmoid" else logits.argmax(1)
    both, total, present = [], [], []
    for output, target in enumerate(table.targets):
        predicted = logits[:, output] > 0 if classes is None else classes == target.indices[0]
        truth = any_of(labels, target.indices)
        if table.ignore_index is not None:
            predicted = predicted & (labels != table.ignore_index)
        both.append((truth & predicted).sum())
        total.append(truth.sum() + predicted.sum())
        present.append(truth.any())
    there = torch.stack(present)
    if not there.any():
        return None
    return float((2 * torch.stack(both) / torch.stack(total).clamp(min=1))[there].float().mean())


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


def sum_over_ranks(sums: Tensor) -> Tensor:
    """The sum over all processes, which must all call it; its gradient is that of the whole batch."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return sums
    return _SumOverRanks.apply(sums)  # type: ignore[return-value]
