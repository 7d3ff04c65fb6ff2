"""What the planner, ``medseg info`` and the documentation know of each network, without torch.

The builders stand in ``medseg.networks.build``; a test holds that table against this one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A network as the planner sees it."""

    name: str
    summary: str
    dimensions: tuple[int, ...] = (2, 3)


ARCHITECTURES: dict[str, Architecture] = {
    "unet": Architecture("unet", "plain U-Net as nnU-Net plans it (Isensee et al. 2021)"),
}
