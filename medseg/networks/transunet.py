"""TransUNet: the U-Net with a transformer as its coarsest stage.

Knows nothing of training or inference. Paper: Chen et al. 2021; the convolutional encoder and the decoder are the plain
U-Net's, the positions are interpolated, so that any patch goes. MONAI has no such network.
"""

from __future__ import annotations

from torch import Tensor, nn

from medseg.networks.blocks import CONVOLUTIONS, ConvStage
from medseg.networks.encoder_decoder import EncoderDecoder
from medseg.networks.transformer import Positions, TransformerBlock, to_map, to_tokens
from medseg.networks.unet import Decoder
from medseg.planning.plan import NetworkPlan


class TransformerEncoder(nn.Module):
    """Convolutional stages, then a stage of transformer blocks; gives the maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        widths = (channels, *plan.features)
        *counts, blocks = plan.encoder_convolutions
        self.stages = nn.ModuleList(
            ConvStage(dimensions, widths[i], widths[i + 1], plan.kernels[i], plan.strides[i], count, plan.attention)
            for i, count in enumerate(counts)
        )
        step = plan.strides[-1][-dimensions:]
        self.embedding = CONVOLUTIONS[dimensions](widths[-2], widths[-1], step, step)  # type: ignore[arg-type]
        self.positions = Positions(dimensions, widths[-1])
        self.blocks = nn.Sequential(*(TransformerBlock(widths[-1]) for _ in range(blocks)))
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        placed = self.positions(self.embedding(x))
        return [*maps, to_map(self.norm(self.blocks(to_tokens(placed))), placed)]


def build_transunet(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """TransUNet."""
    encoder, decoder = TransformerEncoder(plan, dimensions, channels), Decoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)
