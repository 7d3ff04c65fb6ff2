"""Attention that a stage of convolutions may end with: squeeze-and-excitation, or convolutional block attention.

Knows nothing of networks. Papers: Hu et al. 2018, Woo et al. 2018. (MONAI's ChannelSELayer is the same as ``Squeeze``,
but costs two seconds of import.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.planning.plan import AttentionName
from medseg.planning.unet_layers import SPATIAL_KERNEL, squeezed


class Squeeze(nn.Module):
    """Squeeze-and-excitation: each channel times a weight that follows from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = squeezed(channels)
        self.channel = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        return _weighted(x, self.channel(x.flatten(2).mean(2)))


class BlockAttention(nn.Module):
    """Convolutional block attention: which channels, then which voxels; (B, C, *space) -> the same."""

    def __init__(self, dimensions: int, channels: int, kernel: Triple) -> None:
        super().__init__()
        inner = squeezed(channels)
        self.channel = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(inplace=True), nn.Linear(inner, channels))
        # Where the stage looks along an axis, so does this; the paper's 7 there, and no more.
        size = tuple(SPATIAL_KERNEL if k > 1 else 1 for k in kernel[-dimensions:])
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.spatial = convolution(2, 1, size, padding=tuple(k // 2 for k in size))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        x = _weighted(x, self.channel(flat.mean(2)) + self.channel(flat.amax(2)))
        summary = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.spatial(summary))


def make_attention(name: AttentionName, dimensions: int, channels: int, kernel: Triple) -> nn.Module:
    """The named attention for a map of so many channels, behind convolutions with this kernel."""
    if name == "se":
        return Squeeze(channels)
    return BlockAttention(dimensions, channels, kernel) if name == "cbam" else nn.Identity()


def _weighted(x: Tensor, scores: Tensor) -> Tensor:
    """(B, C, *space) times the sigmoid of (B, C)."""
    return x * torch.sigmoid(scores).reshape(*scores.shape, *(1,) * (x.dim() - 2))
