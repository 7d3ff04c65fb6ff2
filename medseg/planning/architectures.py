"""What the planner, ``medseg info`` and the documentation know of each network, without torch.

The builders stand in ``medseg.networks.build``; a test holds that table against this one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from medseg.errors import PlanError
from medseg.planning.coarse_layers import deeplab, light
from medseg.planning.layers import Parts
from medseg.planning.mednext_layers import mednext
from medseg.planning.plan import NetworkPlan
from medseg.planning.transformer_layers import segformer, swin_unetr, transunet
from medseg.planning.unet_layers import attention_unet, residual_unet, unet, unet_plus_plus


@dataclass(frozen=True)
class Architecture:
    """A network as the planner sees it."""

    name: str
    summary: str
    layers: Callable[[NetworkPlan, int, int], Parts]
    """All that the network consists of, from its plan, channels and classes (background counted)."""
    dimensions: tuple[int, ...] = (2, 3)
    encoder: tuple[int, ...] = (2,)
    """Convolutions (or blocks) per encoder stage; the last number holds for all further stages."""
    decoder: int = 2
    """Convolutions per decoder stage."""
    bottleneck: int | None = None
    """Blocks of the coarsest stage, where they are of another kind."""
    plain: bool = True
    """Whether its stages are plain convolutions, which may end with channel attention (network.attention)."""

    def counts(self, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Convolutions (or blocks) of each of ``depth`` encoder stages, and of each decoder stage."""
        encoder = (self.encoder + (self.encoder[-1],) * depth)[:depth]
        if self.bottleneck is not None:
            encoder = (*encoder[:-1], self.bottleneck)
        return encoder, (self.decoder,) * (depth - 1)


ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture("unet", "plain U-Net as nnU-Net plans it (Isensee et al. 2021)", unet),
    "residual_unet": Architecture(
        "residual_unet",
        "U-Net with a residual encoder, as nnU-Net's ResEnc presets plan it (Isensee et al. 2024)",
        residual_unet,
        plain=False,
        encoder=(1, 3, 4, 6),
        decoder=1,
    ),
    "attention_unet": Architecture(
        "attention_unet", "U-Net with attention gates on its skip connections (Oktay et al. 2018)", attention_unet
    ),
    "unetpp": Architecture(
        "unetpp", "U-Net++: nested skip connections, heads that can be pruned (Zhou et al. 2018)", unet_plus_plus
    ),
    "mednext": Architecture(
        "mednext", "U-Net of depthwise inverted-bottleneck blocks (Roy et al. 2023)", mednext, plain=False
    ),
    "transunet": Architecture(
        "transunet", "U-Net with a transformer as its coarsest stage (Chen et al. 2021)", transunet, bottleneck=6
    ),
    "swin_unetr": Architecture(
        "swin_unetr", "U-Net whose encoder has shifted windows (Hatamizadeh et al. 2022)", swin_unetr, plain=False
    ),
    "segformer": Architecture(
        "segformer", "attention to a coarser map, light decoder (Xie et al. 2021)", segformer, plain=False
    ),
    "deeplab": Architecture(
        "deeplab",
        "DeepLabV3+: residual encoder, pyramid of dilations (Chen et al. 2018)",
        deeplab,
        encoder=(1, 3, 4, 6),
        plain=False,
    ),
    "light": Architecture(
        "light", "two paths of depthwise separable convolutions, for CPUs (Poudel et al. 2019)", light, plain=False
    ),
}


def require_possible(network: NetworkPlan) -> None:
    """Raise PlanError for an unknown network, or one that can't be what its plan says."""
    kind = architecture(network.name)
    if len(network.features) < 2:
        raise PlanError(f"A network has at least two stages, but features is {list(network.features)}. Give two.")
    if network.attention != "none" and not kind.plain:
        able = ", ".join(name for name, one in ARCHITECTURES.items() if one.plain)
        raise PlanError(
            f"'{network.name}' has no stages of plain convolutions that could end with network.attention="
            f"{network.attention}. Leave that out, or choose one of: {able}."
        )


def architecture(name: str) -> Architecture:
    """The named network. Raises PlanError naming the nearest one that exists."""
    found = ARCHITECTURES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known are: {', '.join(ARCHITECTURES)}."
    raise PlanError(f"There is no network '{name}'. {hint}")
