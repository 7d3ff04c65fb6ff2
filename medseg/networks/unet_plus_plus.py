"""U-Net++: a triangle of nodes between encoder and output, each fed by all before it on its level and the one below.

Every node of the finest level has a head at full resolution, so that a trained network can be cut down to its first
levels (``prune``). Knows nothing of training or inference. Paper: Zhou et al. 2018 and 2020; blocks are the plain
U-Net's (MONAI's implementation fixes five levels, strides of 2 and one kernel).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.networks.blocks import CONVOLUTIONS, TRANSPOSED, ConvStage
from medseg.networks.encoder_decoder import EncoderDecoder
from medseg.networks.unet import Encoder
from medseg.planning.plan import NetworkPlan


class NestedDecoder(nn.Module):
    """Node ``x_i_j`` lies on level i (0 is the finest) as the j-th after the encoder's map; heads are those of x_0_j.

    Without deep supervision there is only the last one's head.
    """

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        super().__init__()
        deepest = len(plan.features) - 1
        self.nodes, self.transposed = nn.ModuleDict(), nn.ModuleDict()
        for j in range(1, deepest + 1):
            for i in range(deepest + 1 - j):
                width, step = plan.features[i], plan.strides[i + 1][-dimensions:]
                up = TRANSPOSED[dimensions](plan.features[i + 1], width, step, step)  # type: ignore[arg-type]
                self.transposed[f"x_{i}_{j}"] = up
                self.nodes[f"x_{i}_{j}"] = ConvStage(
                    dimensions,
                    (j + 1) * width,
                    width,
                    plan.kernels[i],
                    (1, 1, 1),
                    plan.decoder_convolutions[-1 - i],
                    plan.attention,
                )
        heads = deepest if plan.deep_supervision else 1
        self.heads = nn.ModuleList(CONVOLUTIONS[dimensions](plan.features[0], classes, 1) for _ in range(heads))

    def forward(self, maps: list[Tensor], every_head: bool) -> list[Tensor]:
        """Logits at full resolution, those of the deepest path first; only these unless ``every_head``."""
        rows = [[x] for x in maps]
        for j in range(1, len(maps)):
            for i in range(len(maps) - j):
                name = f"x_{i}_{j}"
                up = self.transposed[name](rows[i + 1][j - 1])
                rows[i].append(self.nodes[name](torch.cat((up, *rows[i]), 1)))
        if not every_head:
            return [self.heads[-1](rows[0][-1])]
        return [head(x) for head, x in zip(self.heads, rows[0][1:], strict=True)][::-1]


def build_unet_plus_plus(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """The U-Net++."""
    encoder, decoder = Encoder(plan, dimensions, channels), NestedDecoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)


def prune(plan: NetworkPlan, state: Mapping[str, Tensor], level: int) -> tuple[NetworkPlan, dict[str, Tensor]]:
    """A U-Net++ trained with deep supervision, cut down to its finest ``level`` + 1 levels: its plan and weights.

    It gives the logits that the head of that level gives in the whole network. Raises PlanError where there is no such
    head.
    """
    deepest = len(plan.features) - 1
    if not plan.deep_supervision or not 1 <= level <= deepest:
        last = deepest if plan.deep_supervision else 0
        raise PlanError(
            f"There is no head of level {level} to cut the U-Net++ down to: it has those of the levels 1 to {last}."
            + ("" if plan.deep_supervision else " Train with network.deep_supervision=true.")
        )
    cut = {name: getattr(plan, name)[: level + 1] for name in ("features", "strides", "kernels")}
    smaller = plan.model_copy(
        update={
            **cut,
            "encoder_convolutions": plan.encoder_convolutions[: level + 1],
            "decoder_convolutions": plan.decoder_convolutions[-level:],
            "deep_supervision": False,
        }
    )
    kept = {}
    for name, tensor in state.items():
        _, part, place, *_ = name.split(".")
        if part == "heads":
            if int(place) == level - 1:
                kept[name.replace(f"heads.{place}.", "heads.0.")] = tensor
        elif (int(place) if part == "stages" else sum(map(int, place.split("_")[1:]))) <= level:
            kept[name] = tensor
    return smaller, kept
