"""A light network for CPUs and small devices: two paths of depthwise separable convolutions at low resolution.

* the image is halved by its first convolution; a path of detail stays there
* a path of context goes down to the coarsest stage, and adds the mean over the patch
* both are joined, weighted by channel, and the logits are enlarged to the patch

Knows nothing of training or inference. Papers: BiSeNet (Yu et al. 2018), Fast-SCNN (Poudel et al. 2019), MobileNets
(Howard et al. 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.networks.blocks import CONVOLUTIONS, SLOPE, ConvBlock, SeparableBlock
from medseg.networks.channel_attention import Squeeze
from medseg.networks.encoder_decoder import CoarseDecoder, EncoderDecoder, enlarge
from medseg.planning.coarse_layers import finest_stage
from medseg.planning.plan import NetworkPlan


class TwoPaths(nn.Module):
    """The path of detail and each stage of the path of context, as maps of their stages; finer ones are left empty."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        self.finest = stage = finest_stage(plan)
        self.stem = ConvBlock(dimensions, channels, plan.features[0], plan.kernels[0], plan.strides[stage])
        stages, width = [], plan.features[0]
        for deeper in range(stage, len(plan.features)):
            first = deeper == stage
            stride = (1, 1, 1) if first else plan.strides[deeper]
            blocks = []
            for _ in range(plan.encoder_convolutions[0 if first else deeper]):
                blocks.append(SeparableBlock(dimensions, width, plan.features[deeper], plan.kernels[deeper], stride))
                width, stride = plan.features[deeper], (1, 1, 1)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = [x] * self.finest
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class JoiningDecoder(CoarseDecoder):
    """Context and detail in one map."""

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        width, deepest = plan.features[finest_stage(plan)], plan.features[-1]
        super().__init__(plan, dimensions, width, classes)
        self.mean = CONVOLUTIONS[dimensions](deepest, deepest, 1)
        self.context = ConvBlock(dimensions, deepest, width, (1, 1, 1))
        self.join = ConvBlock(dimensions, 2 * width, width, (1, 1, 1))
        self.weigh = Squeeze(width)

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The map from which the logits are made."""
        detail, deepest = maps[self.finest], maps[-1]
        mean = deepest.mean(tuple(range(2, deepest.dim())), keepdim=True)
        context = self.context(deepest + nn.functional.leaky_relu(self.mean(mean), SLOPE))
        joined = self.join(torch.cat((detail, enlarge(context, detail)), 1))
        return self.weigh(joined)


def build_light(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """The light network."""
    encoder, decoder = TwoPaths(plan, dimensions, channels), JoiningDecoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)
