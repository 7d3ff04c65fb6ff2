"""Losses of overlap: Dice and its generalisations, Tversky, Lovasz.

Each takes Answers and gives a scalar. Sums run over each patch, or with ``batch_dice`` over the batch of all ranks;
unannotated voxels are in no sum. MONAI has most of them, but without an ignore label and without sums over ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medseg.training.answers import Answers
from medseg.training.dice import soft_dice, sum_over_ranks

_SMOOTH = 1e-5
_FALSE, _MISSED = 0.3, 0.7
_FOCAL_EXPONENT = 0.75


class _Sums(NamedTuple):
    """Of each target (first axis) in each patch or batch (second axis)."""

    both: Tensor
    found: Tensor
    there: Tensor


def dice(answers: Answers) -> Tensor:
    """Minus the mean soft Dice of the targets (``medseg.training.dice.soft_dice``)."""
    return -soft_dice(answers.found(), answers.known, answers.setting.batch_dice)


def generalised_dice(answers: Answers) -> Tensor:
    """1 - 2 sum(w both) / sum(w (found + there)), w = 1 / volume^2 (Sudre et al. 2017).

    Classes with the background, or regions. One that is absent would weigh without limit: it takes the largest weight
    of those that are there, as in MONAI, so that what is found of it still counts.
    """
    sums = _sums(answers, with_background=True)
    there = sums.there > 0
    weights = torch.where(there, 1 / sums.there.clamp(min=1) ** 2, 0)
    largest = weights.amax(0, keepdim=True)
    weights = torch.where(there, weights, torch.where(largest > 0, largest, 1))
    weights = weights / weights.amax(0, keepdim=True)  # only their proportion matters; keeps float32 exact
    overlap = 2 * (weights * sums.both).sum(0) + _SMOOTH
    return (1 - overlap / ((weights * (sums.found + sums.there)).sum(0) + _SMOOTH)).mean()


def tversky(answers: Answers) -> Tensor:
    """1 - both / (both + 0.3 false + 0.7 missed), mean over targets (Salehi et al. 2017)."""
    return (1 - _tversky_index(answers)).mean()


def focal_tversky(answers: Answers) -> Tensor:
    """The same to the power 3/4, so that badly found structures weigh more (Abraham and Khan 2019, gamma 4/3)."""
    # The power has no finite slope at 0.
    return ((1 - _tversky_index(answers)).clamp(min=_SMOOTH) ** _FOCAL_EXPONENT).mean()


def _tversky_index(answers: Answers) -> Tensor:
    sums = _sums(answers)
    false, missed = sums.found - sums.both, sums.there - sums.both
    return (sums.both + _SMOOTH) / (sums.both + _FALSE * false + _MISSED * missed + _SMOOTH)


def _sums(answers: Answers, with_background: bool = False) -> _Sums:
    pairs = list(answers.found_known())
    if with_background and answers.are_classes:
        probability, mask = answers.log_classes[:, 0].exp(), answers.labels == 0
        pairs.insert(0, (probability if answers.known is None else probability * answers.known, mask))
    sums = torch.stack(
        [torch.stack([part.flatten(1).sum(1) for part in (p * mask, p, mask.to(p.dtype))]) for p, mask in pairs],
        dim=1,
    )  # (3, targets, B)
    return _Sums(*(sum_over_ranks(sums.sum(2, keepdim=True)) if answers.setting.batch_dice else sums))


def lovasz(answers: Answers) -> Tensor:
    """The Lovasz extension of 1 - IoU (Berman et al. 2018), mean over the classes that are there, or over all regions.

    The background is one of the classes. With ``batch_dice`` over the patches of this rank.
    """
    batch = len(answers.labels)
    groups = [slice(None)] if answers.setting.batch_dice else [slice(i, i + 1) for i in range(batch)]
    probabilities = answers.log_classes.exp() if answers.are_classes else answers.logits.sigmoid()
    truth = torch.stack(answers.masks(), dim=1)
    if answers.are_classes:
        truth = torch.cat([(answers.labels == 0)[:, None], truth], dim=1)
    losses = []
    for group in groups:
        for probability, mask in zip(probabilities[group].unbind(1), truth[group].unbind(1), strict=True):
            p, inside = probability.flatten(), mask.flatten()
            if answers.known is not None:
                known = answers.known[group].flatten()
                p, inside = p[known], inside[known]
            if len(p) and (inside.any() or not answers.are_classes):
                losses.append(_lovasz_of(p, inside.to(p.dtype)))
    return torch.stack(losses).mean() if losses else 0.0 * answers.logits.sum()


def _lovasz_of(probability: Tensor, inside: Tensor) -> Tensor:
    """Of one target, both (N,): errors from the largest on, each times how much IoU falls with it."""
    errors, order = (inside - probability).abs().sort(descending=True, stable=True)
    sorted_inside = inside[order]
    total = sorted_inside.sum()
    left = total - sorted_inside.cumsum(0)
    lost = 1 - left / (total + (1 - sorted_inside).cumsum(0))
    return errors @ torch.diff(lost, prepend=lost.new_zeros(1))
