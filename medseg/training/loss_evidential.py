"""Evidence for classes: the network gives a Dirichlet distribution over probabilities instead of probabilities alone.

Sensoy et al. 2018, with the concentrations alpha = exp(logits), whose mean is the softmax, so that a prediction is made
as by any other network; ``network.head=evidential`` gives logits of 0 or more, that is alpha of 1 or more. The expected
squared error, plus the divergence of what speaks for wrong classes from no evidence at all, which counts more and more
over the first half of a training and is the reason why the sum of alpha says how much the network knows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.training.answers import Answers

_DIVERGENCE = 0.1
"""Weight of the divergence once it counts in full; with 1 small structures are not learned against it."""
_ANNEALED = 0.5
_LOGITS = (-3.0, 10.0)
"""Between these evidence is counted: no gradient for what is beyond doubt, or beyond the head's reach."""


def evidential(answers: Answers) -> Tensor:
    """Of regions, whose one logit can't hold evidence on both sides, the expected squared error alone."""
    z = answers.logits
    logs = z[:, None] if answers.are_classes else torch.stack([-z / 2, z / 2], dim=2)
    alpha = logs.clamp(*_LOGITS).exp()
    total = alpha.sum(2, keepdim=True)
    p = alpha / total
    true = torch.zeros_like(alpha).scatter_(2, answers.truth[:, :, None], 1.0)
    error = ((true - p) ** 2 + p * (1 - p) / (total + 1)).sum(2)
    if answers.are_classes:
        error = error + _DIVERGENCE * min(answers.progress / _ANNEALED, 1.0) * _divergence(true + (1 - true) * alpha)
    return answers.mean(error)


def _divergence(alpha: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Dirichlet distributions ``(B, Q, A, ...)`` from that without evidence."""
    total, count = alpha.sum(2, keepdim=True), torch.tensor(float(alpha.shape[2]), dtype=alpha.dtype)
    spread = ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total))).sum(2)
    return torch.lgamma(total[:, :, 0]) - torch.lgamma(alpha).sum(2) - torch.lgamma(count).to(alpha.device) + spread
