"""What is added up of every member's probabilities, so that their disagreement is known without keeping any of them.

Knows nothing of networks or files; ``medseg.inference`` averages what is made of each member's, tile by tile,
with the weights of the probabilities themselves. A member is a mirror image of a fold's network (tta), a fold's network
(ensemble), one with some of its features dropped (dropout), one of several kept of its training (snapshots), or any
probabilities that the network's evidence allows (evidential); overlapping tiles count as members too. What a network
holds to be possible of itself (learned) is no disagreement: it is doubt about the labels, and all of it aleatoric.
Rule: predictive entropy of the mean = expected entropy of the members (aleatoric) + mutual information (epistemic),
Depeweg et al. 2018; entropies are concave, so neither part is negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.inference.entropy import entropy_of
from medseg.networks.learned_noise import alternatives

CHANNELS = 2
"""Numbers of a voxel that come behind its probabilities."""


def with_spread(probabilities: Tensor, table: LabelTable) -> Tensor:
    """What is averaged over members: ``(B, K, ...)`` becomes ``(B, K + 2, ...)`` by entropy and sum of squares."""
    entropy = entropy_of(probabilities.transpose(0, 1), table)
    squares = (probabilities**2).sum(dim=1)
    return torch.cat([probabilities, entropy[:, None], squares[:, None]], dim=1)


def with_evidence(logits: Tensor) -> Tensor:
    """The same for networks that give Dirichlet distributions, alpha = exp(logits): the mean over all probabilities
    that are possible under them, by their entropy and sum of squares (Malinin & Gales 2018)."""
    alpha = logits.double().exp()
    total = alpha.sum(dim=1, keepdim=True)
    p = alpha / total
    entropy = (p * (torch.digamma(total + 1) - torch.digamma(alpha + 1))).sum(dim=1, keepdim=True)
    squares = (p * (alpha + 1) / (total + 1)).sum(dim=1, keepdim=True)
    return torch.cat([p, entropy, squares], dim=1).float()


def with_alternatives(heads: Tensor) -> Tensor:
    """The same for networks that say what may be otherwise, with heads ``(B, K * (1 + FACTORS), ...)``: the mean over
    it, the entropy of that mean, and the sum of squares, so that the variance is the learned one."""
    each = [logits.softmax(1) for logits in alternatives(heads)]
    p = torch.stack(each).mean(0)
    entropy = torch.special.entr(p).sum(dim=1, keepdim=True)
    squares = torch.stack([(one**2).sum(dim=1, keepdim=True) for one in each]).mean(0)
    return torch.cat([p, entropy, squares], dim=1)


def finish_spread(scores: Tensor, table: LabelTable) -> Tensor:
    """Averages ``(K + 2, ...)`` on the grid where members agree or not -> mean, mutual information, variance.

    Before anything is interpolated: a mixture of neighbouring voxels is no disagreement of members.
    """
    mean, entropy, squares = scores[:-2], scores[-2], scores[-1]
    information = (entropy_of(mean, table) - entropy).clamp_(min=0)
    variance = (squares - (mean**2).sum(dim=0)).clamp_(min=0)
    return torch.cat([mean, information[None], variance[None]])


@dataclass(frozen=True)
class Parts:
    """One row ``(Y, X)`` of each map, and the mean probabilities ``(K, Y, X)``."""

    mean: Tensor
    information: Tensor
    """Of the members, before calibration, nats."""
    entropy: Tensor
    """Of the mean, before calibration, nats."""
    variance: Tensor
    """Summed over classes."""


def join_configurations(rows: list[Tensor], table: LabelTable) -> Parts:
    """What ``finish_spread`` gave of one or several configurations, each with the same weight.

    By the chain rule: what configurations disagree about adds to what the members of each do.
    """
    every = torch.stack(rows)
    mean, (information, variance) = every[:, :-2].mean(dim=0), every[:, -2:].mean(dim=0)
    entropy = entropy_of(mean, table)
    if len(rows) > 1:
        information = information + entropy - torch.stack([entropy_of(one[:-2], table) for one in rows]).mean(dim=0)
        variance = variance + (every[:, :-2] ** 2).sum(dim=1).mean(dim=0) - (mean**2).sum(dim=0)
    return Parts(mean, information, entropy, variance)
