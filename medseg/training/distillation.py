"""Learning from a trained model as well: a student's probabilities are drawn to those of its teachers.

Knows nothing of where teachers come from. Rule: Hinton et al. 2015: the divergence of softened probabilities, times the
temperature squared so that its gradient keeps its size; several teachers are averaged. Unannotated voxels count too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import lightning_fabric
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.planning.plan import DistillationPlan

Activation = Literal["softmax", "sigmoid"]


class Teachers:
    """Trained networks, and how much the student listens to them."""

    def __init__(self, networks: Sequence[nn.Module], plan: DistillationPlan, activation: Activation) -> None:
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        self.plan = plan
        self.activation: Activation = activation

    def mix(self, fabric: lightning_fabric.Fabric, loss: Tensor, images: Tensor, logits: Tensor) -> Tensor:
        """The loss on labels and the divergence from the teachers, weighted.

        ``images`` (B, C, Z, Y, X) as the student saw them, ``logits`` (B, K, Z, Y, X) its answer at full resolution.
        """
        with torch.no_grad(), fabric.autocast():
            answers = [network(images).float() for network in self.networks]
        with torch.autocast(logits.device.type, enabled=False):
            divergence = divergence_from(answers, logits.float(), self.plan.temperature, self.activation)
        return (1 - self.plan.weight) * loss + self.plan.weight * divergence


def divergence_from(answers: Sequence[Tensor], logits: Tensor, temperature: float, activation: Activation) -> Tensor:
    """Mean over voxels (and regions) of the Kullback-Leibler divergence from the teachers' mean, nats, times T squared.

    Answers and logits are (B, K, Z, Y, X), before softmax or sigmoid. 0 where the student says what they say.
    """
    if activation == "softmax":
        target = torch.stack([(answer / temperature).softmax(1) for answer in answers]).mean(0)
        found = F.kl_div((logits / temperature).log_softmax(1), target, reduction="none").sum(1)
    else:
        target = torch.stack([(answer / temperature).sigmoid() for answer in answers]).mean(0)
        scores = logits / temperature
        entropy = -(torch.special.xlogy(target, target) + torch.special.xlogy(1 - target, 1 - target))
        found = F.binary_cross_entropy_with_logits(scores, target, reduction="none") - entropy
    return temperature**2 * found.mean()
