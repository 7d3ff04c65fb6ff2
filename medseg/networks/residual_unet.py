"""The residual-encoder U-Net of nnU-Net (ResEnc), with the same parameters in the same order.

* encoder: a stem of one convolution, then stages of residual blocks (1, 3, 4, 6, 6, ... in nnU-Net's presets)
* a block: two convolutions beside a ResNet-D shortcut; its last norm starts at 0, so that it starts as the shortcut
* decoder: that of the plain U-Net, with one convolution per stage

Knows nothing of training or inference. Source: nnU-Net Revisited (Isensee et al. 2024); ResNet-D: He et al. 2019.
"""

from __future__ import annotations

from torch import Tensor, nn

from medseg.networks.blocks import ConvStage, ResidualBlock, ResidualStage
from medseg.networks.unet import UNet
from medseg.planning.plan import NetworkPlan


class ResidualEncoder(nn.Module):
    """A stem and stages from fine to coarse; gives the feature maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        stem = plan.features[0]
        self.stem = ConvStage(dimensions, channels, stem, plan.kernels[0], (1, 1, 1), 1)
        widths = (stem, *plan.features)
        self.stages = nn.ModuleList(
            ResidualStage(dimensions, widths[i], widths[i + 1], plan.kernels[i], plan.strides[i], blocks)
            for i, blocks in enumerate(plan.encoder_convolutions)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ResidualUNet(UNet):
    """nnU-Net's residual-encoder U-Net for 2D and 3D; called as ``UNet`` is."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> None:
        super().__init__(plan, dimensions, channels, classes)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.conv2.norm.weight)
                nn.init.zeros_(module.conv2.norm.bias)

    @staticmethod
    def make_encoder(plan: NetworkPlan, dimensions: int, channels: int) -> nn.Module:
        """What gives the feature maps of every stage, finest first."""
        return ResidualEncoder(plan, dimensions, channels)
