"""MedNeXt: a U-Net of inverted-bottleneck blocks with depthwise kernels, residual down- and up-sampling, added skips.

Knows nothing of training or inference. Paper: Roy et al. 2023. MONAI's blocks halve every axis and have one kernel for
all axes, which a Plan of anisotropic images can't use; these take strides and kernels from the Plan. Its transposed
convolutions are padded on their output, where the paper pads the map with zeros.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.networks.blocks import CONVOLUTIONS, TRANSPOSED
from medseg.networks.encoder_decoder import EncoderDecoder
from medseg.planning.mednext_layers import EXPANSION
from medseg.planning.plan import NetworkPlan

ONE = (1, 1, 1)


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm of each channel, expansion, GELU, compression; beside a shortcut.

    (B, C_in, *space) -> (B, C_out, *space / stride), or * stride where it is ``up``.
    """

    def __init__(
        self, dimensions: int, c_in: int, c_out: int, kernel: Triple, stride: Triple = ONE, up: bool = False
    ) -> None:
        super().__init__()
        size, step, convolution = kernel[-dimensions:], stride[-dimensions:], CONVOLUTIONS[dimensions]
        padding: Any = tuple(k // 2 for k in size)
        resample: Any = TRANSPOSED[dimensions] if up else convolution
        extra = {"output_padding": tuple(s - 1 for s in step)} if up else {}
        self.depthwise = resample(c_in, c_in, size, step, padding, groups=c_in, **extra)
        self.norm = nn.GroupNorm(c_in, c_in)
        self.expand = convolution(c_in, EXPANSION * c_in, 1)
        self.activation = nn.GELU()
        self.compress = convolution(EXPANSION * c_in, c_out, 1)
        changes = c_in != c_out or max(step) > 1
        self.shortcut = resample(c_in, c_out, 1, step, **extra) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.expand(self.norm(self.depthwise(x))))
        return self.shortcut(x) + self.compress(inner)


class MedNeXtEncoder(nn.Module):
    """Stages from fine to coarse; gives the feature maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        self.stem = CONVOLUTIONS[dimensions](channels, plan.features[0], 1)
        stages = []
        for i, (width, kernel, blocks) in enumerate(
            zip(plan.features, plan.kernels, plan.encoder_convolutions, strict=True)
        ):
            down = [MedNeXtBlock(dimensions, plan.features[i - 1], width, kernel, plan.strides[i])] if i else []
            stages.append(
                nn.Sequential(*down, *(MedNeXtBlock(dimensions, width, width, kernel) for _ in range(blocks)))
            )
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class MedNeXtDecoder(nn.Module):
    """Stages from coarse to fine, and their heads; module 0 is the coarsest."""

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        super().__init__()
        stages, ups, heads = [], [], []
        for level, blocks in zip(reversed(range(len(plan.features) - 1)), plan.decoder_convolutions, strict=True):
            width, kernel = plan.features[level], plan.kernels[level]
            ups.append(
                MedNeXtBlock(dimensions, plan.features[level + 1], width, kernel, plan.strides[level + 1], up=True)
            )
            stages.append(nn.Sequential(*(MedNeXtBlock(dimensions, width, width, kernel) for _ in range(blocks))))
            if plan.deep_supervision or level == 0:
                heads.append(CONVOLUTIONS[dimensions](width, classes, 1))
        self.ups, self.stages, self.heads = nn.ModuleList(ups), nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, maps: list[Tensor], every_head: bool) -> list[Tensor]:
        """Logits, finest first; only the finest unless ``every_head``."""
        x, logits = maps[-1], []
        for i, (up, stage) in enumerate(zip(self.ups, self.stages, strict=True)):
            x = stage(maps[-2 - i] + up(x))
            if every_head:
                logits.append(self.heads[i](x))
        return logits[::-1] if every_head else [self.heads[-1](x)]


def build_mednext(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """MedNeXt."""
    encoder, decoder = MedNeXtEncoder(plan, dimensions, channels), MedNeXtDecoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)
