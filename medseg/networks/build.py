"""From a NetworkPlan to a torch module, by name.

Knows nothing of weights. The planner's view of the same names is ``medseg.planning.architectures``; a test holds the
two tables together.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from medseg.errors import PlanError
from medseg.networks.attention_unet import build_attention_unet
from medseg.networks.deeplab import build_deeplab
from medseg.networks.light import build_light
from medseg.networks.mednext import build_mednext
from medseg.networks.residual_unet import build_residual_unet
from medseg.networks.segformer import build_segformer
from medseg.networks.swin_unetr import build_swin_unetr
from medseg.networks.transunet import build_transunet
from medseg.networks.unet import build_unet
from medseg.networks.unet_plus_plus import build_unet_plus_plus
from medseg.planning.architectures import require_possible
from medseg.planning.plan import NetworkPlan

BUILDERS: dict[str, Callable[[NetworkPlan, int, int, int], nn.Module]] = {
    "unet": build_unet,
    "residual_unet": build_residual_unet,
    "attention_unet": build_attention_unet,
    "unetpp": build_unet_plus_plus,
    "mednext": build_mednext,
    "transunet": build_transunet,
    "swin_unetr": build_swin_unetr,
    "segformer": build_segformer,
    "deeplab": build_deeplab,
    "light": build_light,
}


def build_network(network: NetworkPlan, dimensions: int, channels: int, classes: int) -> nn.Module:
    """A freshly initialised network from torch's current random state.

    It takes (B, C, Z, Y, X) and gives logits (B, K, Z, Y, X); in training mode with deep supervision a list of logits,
    finest first. ``dimensions`` is 2 (then Z = 1) or 3; ``classes`` counts the background. Raises PlanError for an
    unknown name, or a network that can't be what its plan says.
    """
    builder = BUILDERS.get(network.name)
    if builder is None:
        raise PlanError(f"There is no network '{network.name}'. Choose one of: {', '.join(BUILDERS)}.")
    require_possible(network)
    if dimensions not in (2, 3):
        raise PlanError(f"A network has 2 or 3 dimensions, not {dimensions}.")
    return builder(network, dimensions, channels, classes * network.logits_per_class)
