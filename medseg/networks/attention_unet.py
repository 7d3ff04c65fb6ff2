"""The Attention U-Net: additive gates decide, by the coarser map, which voxels of a skip connection count.

Knows nothing of training or inference. Paper: Oktay et al. 2018; encoder, decoder and norms are the plain U-Net's
(MONAI's implementation fixes batch norm, and has neither a kernel per stage nor deep supervision).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.networks.blocks import CONVOLUTIONS
from medseg.networks.encoder_decoder import EncoderDecoder, enlarge
from medseg.networks.unet import Decoder, Encoder
from medseg.planning.plan import NetworkPlan
from medseg.planning.unet_layers import gate_width


class AttentionGate(nn.Module):
    """A skip (B, C, *space) times a weight of each voxel, from the skip and the map below (B, C', *space / stride)."""

    def __init__(self, dimensions: int, skip: int, below: int, stride: Triple) -> None:
        super().__init__()
        step, width, convolution = stride[-dimensions:], gate_width(skip), CONVOLUTIONS[dimensions]
        self.skip = convolution(skip, width, step, step, bias=False)  # type: ignore[arg-type]
        self.below = convolution(below, width, 1)
        self.score = convolution(width, 1, 1)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        both = torch.relu_(self.skip(skip) + self.below(below))
        return skip * enlarge(torch.sigmoid(self.score(both)), skip)


class GatedDecoder(Decoder):
    """The U-Net's decoder with a gate on every skip connection."""

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        super().__init__(plan, dimensions, classes)
        self.gates = nn.ModuleList(
            AttentionGate(dimensions, plan.features[level], plan.features[level + 1], plan.strides[level + 1])
            for level in reversed(range(len(plan.features) - 1))
        )

    def skip(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        """The skip's map, gated."""
        return self.gates[level](skip, below)


def build_attention_unet(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """The U-Net with attention gates."""
    encoder, decoder = Encoder(plan, dimensions, channels), GatedDecoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)
