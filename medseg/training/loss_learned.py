"""How probable a patch's labels are as a whole, under all that the network holds to be possible.

Monteiro et al. 2020: the mean over what may be (``medseg.networks.learned_noise``) of the probability of every voxel's
label together, so that a network learns which voxels go together where labels are ambiguous; voxel by voxel any spread
would do as well as none. Of a network with a single answer it is cross-entropy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseg.training.answers import Answers


def learned(answers: Answers) -> Tensor:
    """Minus the logarithm of that probability, by the annotated voxel (and its class's weight)."""
    weight, found = answers.weight(), []
    for logits in answers.alternatives():
        each = Answers(logits, answers.labels, answers.setting).log_truth
        found.append((each if weight is None else each * weight).flatten(1).sum(1))
    together = torch.stack(found).logsumexp(0) - math.log(len(found))
    counted = answers.truth.numel() if weight is None else weight.sum().clamp(min=1e-8)
    return -together.sum() / counted
