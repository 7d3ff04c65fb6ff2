"""From a NetworkPlan to a torch module, by name.

Knows nothing of weights. The planner's view of the same names is ``medseg.planning.architectures``; a test holds the
two tables together.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from medseg.errors import PlanError
from medseg.networks.residual_unet import ResidualUNet
from medseg.networks.unet import UNet
from medseg.planning.plan import NetworkPlan

BUILDERS: dict[str, Callable[[NetworkPlan, int, int, int], nn.Module]] = {
    "unet": UNet,
    "residual_unet": ResidualUNet,
}


def build_network(network: NetworkPlan, dimensions: int, channels: int, classes: int) -> nn.Module:
    """A freshly initialised network from torch's current random state.

    It takes (B, C, Z, Y, X) and gives logits (B, K, Z, Y, X); in training mode with deep supervision a list of logits,
    finest first. ``dimensions`` is 2 (then Z = 1) or 3; ``classes`` counts the background. Raises PlanError for an
    unknown name.
    """
    builder = BUILDERS.get(network.name)
    if builder is None:
        raise PlanError(f"There is no network '{network.name}'. Choose one of: {', '.join(BUILDERS)}.")
    if dimensions not in (2, 3):
        raise PlanError(f"A network has 2 or 3 dimensions, not {dimensions}.")
    return builder(network, dimensions, channels, classes)
