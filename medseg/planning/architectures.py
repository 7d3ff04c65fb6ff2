"""What the planner, ``medseg info`` and the documentation know of each network, without torch.

The builders stand in ``medseg.networks.build``; a test holds that table against this one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from medseg.errors import PlanError
from medseg.planning.layers import Parts
from medseg.planning.plan import NetworkPlan
from medseg.planning.unet_layers import residual_unet, unet


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


ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture("unet", "plain U-Net as nnU-Net plans it (Isensee et al. 2021)", unet),
    "residual_unet": Architecture(
        "residual_unet",
        "U-Net with a residual encoder, as nnU-Net's ResEnc presets plan it (Isensee et al. 2024)",
        residual_unet,
        encoder=(1, 3, 4, 6),
        decoder=1,
    ),
}


def architecture(name: str) -> Architecture:
    """The named network. Raises PlanError naming the nearest one that exists."""
    found = ARCHITECTURES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.5)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known are: {', '.join(ARCHITECTURES)}."
    raise PlanError(f"There is no network '{name}'. {hint}")
