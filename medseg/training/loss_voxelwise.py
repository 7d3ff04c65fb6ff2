"""Losses that are means over voxels: cross-entropy and its kin, for hard voxels, soft labels and wrong labels.

Each takes Answers and gives a scalar; classes, regions, unannotated voxels and class weights are the Answers' business.
Constants are those of the papers named at each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from medseg.training.answers import Answers

_FOCUS = 2.0
_HARDEST = 0.1
_SMOOTHING = 0.1
_EXPONENT = 0.7
_FORWARD, _REVERSE, _LOG_ZERO = 0.1, 1.0, -4.0
_TRUST, _SOFT_TRUST = 0.8, 0.95


def cross_entropy(answers: Answers) -> Tensor:
    """Minus the log-probability of the truth; for regions the mean over them, too."""
    if answers.setting.class_weights is not None:
        return answers.mean(-answers.log_truth)
    if not answers.are_classes:
        return _binary_cross_entropy(answers)
    if answers.known is None or answers.ignore is None:
        return F.nll_loss(answers.log_classes, answers.labels)
    total = F.nll_loss(answers.log_classes, answers.labels, ignore_index=answers.ignore, reduction="sum")
    return total / answers.known.sum().clamp(min=1)


def _binary_cross_entropy(answers: Answers) -> Tensor:
    """Both means run over regions as well (nnU-Net's is their sum instead as soon as there is an ignore label)."""
    scores = answers.logits.unbind(1)
    weight = None if answers.known is None else answers.known.to(scores[0].dtype)
    count = answers.labels.numel() if answers.known is None else answers.known.sum().clamp(min=1)
    losses = [
        F.binary_cross_entropy_with_logits(score, mask.to(score.dtype), weight, reduction="sum")
        for score, mask in zip(scores, answers.masks(), strict=True)
    ]
    return torch.stack(losses).sum() / (count * len(scores))


def focal(answers: Answers) -> Tensor:
    """(1 - p)^2 times cross-entropy (Lin et al. 2017, gamma 2)."""
    return answers.mean(-((1 - answers.log_truth.exp()) ** _FOCUS) * answers.log_truth)


def topk_cross_entropy(answers: Answers) -> Tensor:
    """Mean cross-entropy of the worst tenth of the annotated voxels of a batch (Wu et al. 2016; nnU-Net's TopK10)."""
    weight = answers.weight()
    every = -answers.log_truth if weight is None else -answers.log_truth * weight
    if answers.known is not None:
        every = every[answers.known[:, None].expand_as(every)]
    if every.numel() == 0:
        return 0.0 * answers.logits.sum()
    return every.flatten().topk(max(1, round(_HARDEST * every.numel()))).values.mean()


def smoothed_cross_entropy(answers: Answers) -> Tensor:
    """The truth counts 0.9, and 0.1 is shared by all answers alike (Szegedy et al. 2016)."""
    return answers.mean(-(1 - _SMOOTHING) * answers.log_truth - _SMOOTHING * answers.log_answers.mean(2))


def soft_cross_entropy(answers: Answers) -> Tensor:
    """Each voxel's label counts one half, those of its 26 neighbours the other (Islam and Glocker 2021).

    Neighbours weigh by a Gaussian of standard deviation 1 voxel; unannotated ones, and those outside, have no say.
    """
    log_answers = answers.log_answers
    return answers.mean(-(_softened(answers, log_answers.shape[2]) * log_answers).sum(2))


def _softened(answers: Answers, count: int) -> Tensor:
    """Soft labels (B, Q, A, Z, Y, X) for questions with so many answers; they take no gradient."""
    indices = torch.arange(count, device=answers.truth.device)[:, None, None, None]
    exact = (answers.truth[:, :, None] == indices).to(answers.logits.dtype)
    known = torch.ones_like(answers.truth[:, :1]) if answers.known is None else answers.known[:, None]
    known = known.to(exact.dtype)
    squares = torch.tensor([1.0, 0.0, 1.0], dtype=exact.dtype, device=exact.device)
    kernel = torch.exp(-(squares[:, None, None] + squares[:, None] + squares) / 2)
    kernel[1, 1, 1] = 0
    weighed = exact * known[:, :, None]
    around = F.conv3d(weighed.flatten(0, 2)[:, None], kernel[None, None], padding=1).reshape(exact.shape)
    neighbours = F.conv3d(known, kernel[None, None], padding=1)[:, :, None]
    # A voxel without a neighbour that has a say is as sure as its label.
    return torch.where(neighbours > 0, (exact + around / neighbours.clamp(min=1e-6)) / 2, exact)


def generalised_cross_entropy(answers: Answers) -> Tensor:
    """(1 - p^0.7) / 0.7: cross-entropy for exponent 0, mean absolute error for 1 (Zhang and Sabuncu 2018)."""
    return answers.mean((1 - (_EXPONENT * answers.log_truth).exp()) / _EXPONENT)


def symmetric_cross_entropy(answers: Answers) -> Tensor:
    """0.1 times cross-entropy and 1 times its reverse, for which the log of 0 is -4 (Wang et al. 2019)."""
    reverse = -_LOG_ZERO * (1 - answers.log_truth.exp())
    return answers.mean(_REVERSE * reverse - _FORWARD * answers.log_truth)


def bootstrap(answers: Answers) -> Tensor:
    """Cross-entropy to 0.8 of the label and 0.2 of the likeliest answer (Reed et al. 2015, hard)."""
    return answers.mean(-_TRUST * answers.log_truth - (1 - _TRUST) * answers.log_answers.amax(2))


def soft_bootstrap(answers: Answers) -> Tensor:
    """Cross-entropy to 0.95 of the label and 0.05 of the network's probabilities (Reed et al. 2015, soft)."""
    entropy = -(answers.log_answers.exp() * answers.log_answers).sum(2)
    return answers.mean(-_SOFT_TRUST * answers.log_truth + (1 - _SOFT_TRUST) * entropy)
