"""The plain U-Net whose topology a Plan gives: nnU-Net's PlainConvUNet, with the same parameters in the same order.

Knows nothing of training or inference. Paper: Ronneberger et al. 2015; the variant is nnU-Net's (Isensee et al. 2021):
strided convolutions down, transposed convolutions up, concatenated skips, a head on every decoder stage.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.networks.blocks import CONVOLUTIONS, TRANSPOSED, ConvStage
from medseg.networks.encoder_decoder import EncoderDecoder
from medseg.planning.plan import NetworkPlan


class Encoder(nn.Module):
    """Stages from fine to coarse; gives the feature maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        widths = (channels, *plan.features)
        self.stages = nn.ModuleList(
            ConvStage(dimensions, widths[i], widths[i + 1], plan.kernels[i], plan.strides[i], count, plan.attention)
            for i, count in enumerate(plan.encoder_convolutions)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Stages from coarse to fine, and their heads; module 0 is the coarsest, as in nnU-Net.

    Without deep supervision there is only the finest stage's head.
    """

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        super().__init__()
        stages, transposed, heads = [], [], []
        finest = 0
        for level, convolutions in zip(reversed(range(len(plan.features) - 1)), plan.decoder_convolutions, strict=True):
            width, below, stride = plan.features[level], plan.features[level + 1], plan.strides[level + 1]
            step = stride[-dimensions:]
            transposed.append(TRANSPOSED[dimensions](below, width, step, step))  # type: ignore[arg-type]
            kernel = plan.kernels[level]
            stages.append(ConvStage(dimensions, 2 * width, width, kernel, (1, 1, 1), convolutions, plan.attention))
            if plan.deep_supervision or level == finest:
                heads.append(CONVOLUTIONS[dimensions](width, classes, 1))
        # Registered in nnU-Net's order, so that its weights map onto these one to one.
        self.stages = nn.ModuleList(stages)
        self.transposed = nn.ModuleList(transposed)
        self.heads = nn.ModuleList(heads)

    def forward(self, maps: list[Tensor], every_head: bool) -> list[Tensor]:
        """Logits, finest first; only the finest unless ``every_head``."""
        x = maps[-1]
        logits = []
        skips = maps[-2::-1]
        for i, (up, stage) in enumerate(zip(self.transposed, self.stages, strict=True)):
            x = stage(torch.cat((up(x), self.skip(i, skips[i], x)), 1))
            if every_head:
                logits.append(self.heads[i](x))
        return logits[::-1] if every_head else [self.heads[-1](x)]

    def skip(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """What of an encoder's map goes into the decoder's stage ``level``, where ``below`` is the map under it."""
        del level, below
        return skip


def build_unet(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """nnU-Net's plain U-Net."""
    encoder, decoder = Encoder(plan, dimensions, channels), Decoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)
