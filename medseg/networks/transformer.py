"""The pieces of the networks with attention between places: positions, and the transformer block.

Knows nothing of how they are put together. Papers: Dosovitskiy et al. 2021 (ViT). Attention is torch's fused one, which
never holds the matrix of all pairs. (MONAI's TransformerBlock needs einops, and has parameters that take no gradient.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.planning.transformer_layers import EXPANSION, POSITIONS, heads_of


class Positions(nn.Module):
    """A trainable map of fixed size, added to a map (B, C, *space) of any size by linear interpolation."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        self.mode = "bilinear" if dimensions == 2 else "trilinear"
        self.table = nn.Parameter(torch.empty(1, channels, *(POSITIONS[dimensions],) * dimensions))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.interpolate(self.table, x.shape[2:], mode=self.mode, align_corners=False)


class TransformerBlock(nn.Module):
    """Attention of all tokens to all, and two linear maps of each; (B, N, C) -> (B, N, C), norms first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = heads_of(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, EXPANSION * channels), nn.GELU(), nn.Linear(EXPANSION * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(attend(queries, keys, values, self.heads))
        return x + self.mlp(self.norm2(x))


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of tokens (B, N, C) to (B, M, C) in so many heads -> (B, N, C)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, *space) -> (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, N, C) -> (B, C, *space) of another map."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])
