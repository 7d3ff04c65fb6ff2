"""DeepLabV3+: a residual encoder that dilates instead of its last stride, a pyramid of dilations, a light decoder.

Knows nothing of training or inference. Paper: Chen et al. 2018; the encoder is the residual U-Net's, the pyramid's
rates are those of MONAI's SimpleASPP (which has neither a norm in each branch nor the mean of the image). The decoder
joins the finest map but one, and its logits are enlarged to the patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.networks.blocks import CONVOLUTIONS, SLOPE, ConvBlock, SeparableBlock
from medseg.networks.encoder_decoder import CoarseDecoder, EncoderDecoder, enlarge
from medseg.networks.residual_unet import ResidualEncoder, start_as_shortcuts
from medseg.planning.coarse_layers import RATES, finest_stage, pyramid_width, undivided
from medseg.planning.plan import NetworkPlan


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: (B, C, *space) -> (B, W, *space)."""

    def __init__(self, plan: NetworkPlan, dimensions: int) -> None:
        super().__init__()
        c_in, width, kernel = plan.features[-1], pyramid_width(plan), plan.kernels[-1]
        wide = (ConvBlock(dimensions, c_in, width, kernel, dilation=rate) for rate in RATES)
        self.branches = nn.ModuleList((ConvBlock(dimensions, c_in, width, (1, 1, 1)), *wide))
        self.mean = CONVOLUTIONS[dimensions](c_in, width, 1)  # without a norm, which a single voxel can't have
        self.join = ConvBlock(dimensions, (len(RATES) + 2) * width, width, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.dim()))
        mean = nn.functional.leaky_relu(self.mean(x.mean(axes, keepdim=True)), SLOPE)
        maps = [branch(x) for branch in self.branches]
        return self.join(torch.cat((*maps, mean.expand_as(maps[0])), 1))


class DeepLabDecoder(CoarseDecoder):
    """The pyramid, joined with a finer map of the encoder."""

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        width, low, stage = pyramid_width(plan), plan.features[0], finest_stage(plan)
        super().__init__(plan, dimensions, width, classes)
        self.pyramid = Pyramid(plan, dimensions)
        self.low = ConvBlock(dimensions, plan.features[stage], low, (1, 1, 1))
        kernel, count = plan.kernels[stage], plan.decoder_convolutions[-1]
        first = SeparableBlock(dimensions, width + low, width, kernel)
        self.refine = nn.Sequential(
            first, *(SeparableBlock(dimensions, width, width, kernel) for _ in range(count - 1))
        )

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The map from which the logits are made."""
        fine = self.low(maps[self.finest])
        return self.refine(torch.cat((enlarge(self.pyramid(maps[-1]), fine), fine), 1))


def build_deeplab(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """DeepLabV3+."""
    dilations = (*(1 for _ in plan.features[:-1]), max(plan.strides[-1]))
    encoder = ResidualEncoder(undivided(plan), dimensions, channels, dilations)
    network = EncoderDecoder(plan, dimensions, channels, encoder, DeepLabDecoder(plan, dimensions, classes))
    start_as_shortcuts(network)
    return network
