"""Swin UNETR: a U-Net whose encoder looks through shifted windows, with residual blocks on its skip connections.

Knows nothing of training or inference. Paper: Hatamizadeh et al. 2022. The window attention is MONAI's; MONAI's whole
network takes only patches that are multiples of 32 and always five halvings, so its blocks stand here in the Plan's
topology: merging by the stage's own stride, and windows that are padded where a map is no multiple of them.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.networks.blocks import CONVOLUTIONS, ConvStage, ResidualBlock
from medseg.networks.encoder_decoder import EncoderDecoder
from medseg.networks.unet import Decoder
from medseg.planning.plan import NetworkPlan
from medseg.planning.transformer_layers import heads_of, window_of


class SwinStage(nn.Module):
    """Neighbours merged into one token, then blocks with windows in place and shifted by turns."""

    def __init__(self, dimensions: int, c_in: int, c_out: int, stride: Triple, blocks: int, window: Triple) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformerBlock

        step = stride[-dimensions:]
        self.merge = CONVOLUTIONS[dimensions](c_in, c_out, step, step)  # type: ignore[arg-type]
        self.window = window[-dimensions:]
        self.shift = tuple(n // 2 for n in self.window)
        still = (0,) * dimensions
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(c_out, heads_of(c_out), self.window, self.shift if i % 2 else still)
            for i in range(blocks)
        )
        for block in self.blocks:
            _without_index_in_state(block)

    def forward(self, x: Tensor) -> Tensor:
        from monai.networks.nets.swin_unetr import compute_mask, get_window_size

        x = self.merge(x).movedim(1, -1)
        size = x.shape[1:-1]
        window, shift = get_window_size(size, self.window, self.shift)
        padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
        mask = compute_mask(padded, window, shift, x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return x.movedim(-1, 1)


class SwinEncoder(nn.Module):
    """A convolutional stage at full resolution, then stages of windows; gives the maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        first, widths, window = plan.encoder_convolutions[0], plan.features, window_of(plan)
        self.stem = ConvStage(dimensions, channels, widths[0], plan.kernels[0], (1, 1, 1), first)
        self.stages = nn.ModuleList(
            SwinStage(dimensions, widths[i - 1], widths[i], plan.strides[i], plan.encoder_convolutions[i], window)
            for i in range(1, len(widths))
        )
        self.skips = nn.ModuleList(
            ResidualBlock(dimensions, widths[i], widths[i], plan.kernels[i]) for i in range(1, len(widths))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = [x]
        for stage, skip in zip(self.stages, self.skips, strict=True):
            x = stage(x)
            normed = F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1)
            maps.append(skip(normed.contiguous()))
        return maps


def build_swin_unetr(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """Swin UNETR."""
    encoder, decoder = SwinEncoder(plan, dimensions, channels), Decoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)


def _without_index_in_state(block: Any) -> None:
    """Keep the table of relative places out of the weights: it follows from the window."""
    index = block.attn.relative_position_index
    del block.attn.relative_position_index
    block.attn.register_buffer("relative_position_index", index, persistent=False)
