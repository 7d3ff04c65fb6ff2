"""Learning from a trained model as well: a student's probabilities are drawn to those of its teachers.

Knows nothing of where teachers come from. Rule: Hinton et al. 2015: the divergence of softened probabilities, times the
temperature squared so that its gradient keeps its size; several teachers are averaged. Unannotated voxels count too.
Where the Plan asks for it the coarsest map of the student's encoder is drawn to each teacher's as well, through a
convolution of one voxel that is learned (FitNets, Romero et al. 2015); a teacher's map is normalised, so that the
weight of this means the same for every teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning_fabric
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.networks.blocks import CONVOLUTIONS
from medseg.networks.encoder_decoder import enlarge
from medseg.networks.learned_noise import settled
from medseg.planning.plan import ConfigurationPlan, DistillationPlan

Activation = Literal["softmax", "sigmoid"]


class Coarsest:
    """Keeps the coarsest map that a network's encoder has given last."""

    def __init__(self, network: nn.Module) -> None:
        self._map: Tensor | None = None
        encoder = network.get_submodule("encoder")
        encoder.register_forward_hook(self._keep)

    def _keep(self, encoder: nn.Module, seen: tuple[Tensor, ...], maps: list[Tensor]) -> None:
        del encoder, seen
        self._map = maps[-1]

    def take(self) -> Tensor:
        """The map, (B, F, *space), which is then forgotten."""
        assert self._map is not None  # the network was called before
        found, self._map = self._map, None
        return found


class Student(nn.Module):
    """A network and its adapters, trained together; gives the network's output and its map as each teacher has it."""

    def __init__(self, network: nn.Module, configuration: ConfigurationPlan, widths: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        own, convolution = configuration.network.features[-1], CONVOLUTIONS[configuration.dimensions]
        self.adapters = nn.ModuleList(convolution(own, width, 1) for width in widths)
        self._coarsest = Coarsest(network)

    def forward(self, x: Tensor) -> tuple[Tensor | list[Tensor], list[Tensor]]:
        output, coarsest = self.network(x), self._coarsest.take()
        return output, [adapter(coarsest) for adapter in self.adapters]


class Teachers:
    """Trained networks, and how much the student listens to them."""

    def __init__(
        self, networks: Sequence[nn.Module], plan: DistillationPlan, activation: Activation, width: int
    ) -> None:
        """``width`` is that of the networks' coarsest stage."""
        self.networks = [network.eval().requires_grad_(False) for network in networks]
        self.plan, self.width = plan, width
        self.activation: Activation = activation
        self._coarsest = [Coarsest(network) for network in self.networks] if plan.features else []

    def student(self, network: nn.Module, configuration: ConfigurationPlan) -> nn.Module:
        """What is trained: the network itself, or with adapters where maps are compared."""
        return Student(network, configuration, [self.width] * len(self._coarsest)) if self._coarsest else network

    def mix(self, fabric: lightning_fabric.Fabric, loss: Tensor, images: Tensor, output: Any) -> Tensor:
        """The loss on labels, the divergence from the teachers and the difference of maps, weighted.

        ``images`` (B, C, Z, Y, X) as the student saw them, ``output`` what it gave for them.
        """
        logits, maps = finest_of(output), output[1] if self._coarsest else ()
        with torch.no_grad(), fabric.autocast():
            answers = [network(images).float() for network in self.networks]
        with torch.autocast(logits.device.type, enabled=False):
            own = settled(logits.float(), answers[0].shape[1])
            divergence = divergence_from(answers, own, self.plan.temperature, self.activation)
            mixed = (1 - self.plan.weight) * loss + self.plan.weight * divergence
            theirs = [coarsest.take() for coarsest in self._coarsest]
            pairs = zip(maps, theirs, strict=True)
            apart = [map_difference(ours.float(), teachers.float()) for ours, teachers in pairs]
        return mixed + self.plan.features * torch.stack(apart).mean() if apart else mixed


def logits_of(output: Any) -> Tensor | list[Tensor]:
    """What losses ask for of the output of a network or a Student."""
    return output[0] if isinstance(output, tuple) else output


def finest_of(output: Any) -> Tensor:
    """The logits at full resolution of the output of a network or a Student."""
    logits = logits_of(output)
    return logits[0] if isinstance(logits, list) else logits


def map_difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean square between an adapted map and a teacher's (B, F, *space), whose channels have mean 0 and variance 1."""
    wanted = F.instance_norm(theirs) if theirs[0, 0].numel() > 1 else theirs
    return F.mse_loss(enlarge(ours, wanted), wanted)


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
