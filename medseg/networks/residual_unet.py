"""The residual-encoder U-Net of nnU-Net (ResEnc), with the same parameters in the same order.

* encoder: a stem of one convolution, then stages of residual blocks (1, 3, 4, 6, 6, ... in nnU-Net's presets)
* a block: two convolutions beside a ResNet-D shortcut; its last norm starts at 0, so that it starts as the shortcut
* decoder: that of the plain U-Net, with one convolution per stage

Knows nothing of training or inference. Source: nnU-Net Revisited (Isensee et al. 2024); ResNet-D: He et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.networks.blocks import ConvStage, ResidualBlock, ResidualStage
from medseg.networks.encoder_decoder import EncoderDecoder
from medseg.networks.unet import Decoder
from medseg.planning.plan import NetworkPlan


class ResidualEncoder(nn.Module):
    """A stem and stages from fine to coarse; gives the feature maps of every stage, finest first.

    ``dilations`` are those of each stage, by default 1.
    """

    def __init__(
        self, plan: NetworkPlan, dimensions: int, channels: int, dilations: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        stem = plan.features[0]
        self.stem = ConvStage(dimensions, channels, stem, plan.kernels[0], (1, 1, 1), 1)
        widths = (stem, *plan.features)
        spread = dilations or (1,) * len(plan.features)
        self.stages = nn.ModuleList(
            ResidualStage(dimensions, widths[i], widths[i + 1], plan.kernels[i], plan.strides[i], blocks, spread[i])
            for i, blocks in enumerate(plan.encoder_convolutions)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def build_residual_unet(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """nnU-Net's U-Net with a residual encoder."""
    encoder, decoder = ResidualEncoder(plan, dimensions, channels), Decoder(plan, dimensions, classes)
    network = EncoderDecoder(plan, dimensions, channels, encoder, decoder)
    start_as_shortcuts(network)
    return network


def start_as_shortcuts(network: nn.Module) -> None:
    """Let the last norm of every residual block start at 0."""
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
            nn.init.zeros_(module.conv2.norm.bias)
