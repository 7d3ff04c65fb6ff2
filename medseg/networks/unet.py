"""The plain U-Net whose topology a Plan gives: nnU-Net's PlainConvUNet, with the same parameters in the same order.

Knows nothing of training or inference. Paper: Ronneberger et al. 2015; the variant is nnU-Net's (Isensee et al. 2021):
strided convolutions down, transposed convolutions up, concatenated skips, a head on every decoder stage.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.jit import is_tracing  # type: ignore[attr-defined]

from medseg.networks.blocks import CONVOLUTIONS, TRANSPOSED, ConvStage, check_patch, initialise
from medseg.planning.plan import NetworkPlan


class Encoder(nn.Module):
    """Stages from fine to coarse; gives the feature maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        widths = (channels, *plan.features)
        self.stages = nn.ModuleList(
            ConvStage(dimensions, widths[i], widths[i + 1], plan.kernels[i], plan.strides[i], convolutions)
            for i, convolutions in enumerate(plan.encoder_convolutions)
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
            stages.append(ConvStage(dimensions, 2 * width, width, plan.kernels[level], (1, 1, 1), convolutions))
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
            x = stage(torch.cat((up(x), skips[i]), 1))
            if every_head:
                logits.append(self.heads[i](x))
        return logits[::-1] if every_head else [self.heads[-1](x)]


class UNet(nn.Module):
    """nnU-Net's plain U-Net for 2D and 3D.

    (B, C, Z, Y, X) -> logits (B, K, Z, Y, X); in training mode with deep supervision a list of logits, finest first,
    one per decoder stage. A 2D network takes Z = 1. Raises PlanError when the batch does not fit.
    """

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.channels = channels
        self.divisor = plan.divisor
        self.deep_supervision = plan.deep_supervision
        self.encoder = self.make_encoder(plan, dimensions, channels)
        self.decoder = Decoder(plan, dimensions, classes)
        self.apply(initialise)

    @staticmethod
    def make_encoder(plan: NetworkPlan, dimensions: int, channels: int) -> nn.Module:
        """What gives the feature maps of every stage, finest first."""
        return Encoder(plan, dimensions, channels)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        # A traced or compiled graph has its shape checked where it is made.
        if not is_tracing() and not torch.compiler.is_compiling():
            check_patch(x.shape, self.channels, self.divisor, self.dimensions)
        if self.dimensions == 2:
            x = x.squeeze(2)
        every_head = self.training and self.deep_supervision
        logits = self.decoder(self.encoder(x), every_head)
        if self.dimensions == 2:
            logits = [one.unsqueeze(2) for one in logits]
        return logits if every_head else logits[0]
