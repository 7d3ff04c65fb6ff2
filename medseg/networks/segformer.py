"""A SegFormer: stages of attention to a coarser map of the same image, and a light decoder.

* the first stage is convolutional, at full resolution, since structures in the body are few voxels large
* tokens come from overlapping convolutions; keys and values from the map averaged down to the coarsest grid
* the decoder brings every stage to one width, enlarges, joins, and adds the first stage

Knows nothing of training or inference. Papers: SegFormer (Xie et al. 2021), in three axes Perera et al. 2024; pooled
keys: PVTv2 (Wang et al. 2022), because SegFormer's reducing convolution grows with the cube of the reduction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from medseg.arrays import Triple
from medseg.networks.blocks import CONVOLUTIONS, POOLS, ConvBlock, ConvStage
from medseg.networks.encoder_decoder import EncoderDecoder, enlarge
from medseg.networks.transformer import attend, to_map, to_tokens
from medseg.planning.plan import NetworkPlan
from medseg.planning.transformer_layers import EXPANSION, heads_of, joined_width, reductions


class EfficientBlock(nn.Module):
    """Attention to a reduced map, and a feed-forward that mixes neighbours; (B, C, *space) -> the same, norms first."""

    def __init__(self, dimensions: int, channels: int, kernel: Triple, reduction: Triple) -> None:
        super().__init__()
        step, size = reduction[-dimensions:], kernel[-dimensions:]
        self.heads, inner = heads_of(channels), EXPANSION * channels
        self.norm1 = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.pool = POOLS[dimensions](step, step) if max(step) > 1 else nn.Identity()  # type: ignore[arg-type]
        self.reduce = nn.Linear(channels, channels)
        self.norm_keys = nn.LayerNorm(channels)
        self.keys_values = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, inner)
        padding = tuple(k // 2 for k in size)
        self.mix = CONVOLUTIONS[dimensions](inner, inner, size, padding=padding, groups=inner)  # type: ignore[arg-type]
        self.compress = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)
        normed = self.norm1(tokens)
        reduced = self.norm_keys(self.reduce(to_tokens(self.pool(to_map(normed, x)))))
        keys, values = self.keys_values(reduced).chunk(2, -1)
        tokens = tokens + self.proj(attend(self.query(normed), keys, values, self.heads))
        mixed = self.mix(to_map(self.expand(self.norm2(tokens)), x))
        return to_map(tokens + self.compress(F.gelu(to_tokens(mixed))), x)


class SegFormerEncoder(nn.Module):
    """A convolutional stage, then stages of efficient attention; gives the maps of every stage, finest first."""

    def __init__(self, plan: NetworkPlan, dimensions: int, channels: int) -> None:
        super().__init__()
        widths, kernels = plan.features, plan.kernels
        first, *blocks = plan.encoder_convolutions
        self.stem = ConvStage(dimensions, channels, widths[0], kernels[0], (1, 1, 1), first)
        stages = []
        for i, (count, reduction) in enumerate(zip(blocks, reductions(plan), strict=True), start=1):
            embedding = ConvBlock(dimensions, widths[i - 1], widths[i], kernels[i], plan.strides[i], activated=False)
            further = (EfficientBlock(dimensions, widths[i], kernels[i], reduction) for _ in range(count))
            stages.append(nn.Sequential(embedding, *further))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class LightDecoder(nn.Module):
    """Every stage at one width, joined at the second stage, then with the first; heads from the coarsest on."""

    def __init__(self, plan: NetworkPlan, dimensions: int, classes: int) -> None:
        super().__init__()
        width, first, one = joined_width(plan), plan.features[0], (1, 1, 1)
        self.bring = nn.ModuleList(CONVOLUTIONS[dimensions](w, width, 1) for w in plan.features[1:])
        self.join = ConvBlock(dimensions, (len(plan.features) - 1) * width, width, one)
        self.finish = ConvBlock(dimensions, width + first, first, plan.kernels[0])
        count = len(plan.features) - 1 if plan.deep_supervision else 1
        widths = [width] * (count - 1) + [first]
        self.heads = nn.ModuleList(CONVOLUTIONS[dimensions](w, classes, 1) for w in widths)

    def forward(self, maps: list[Tensor], every_head: bool) -> list[Tensor]:
        """Logits, finest first; only the finest unless ``every_head``."""
        fine, *coarser = maps
        brought = [bring(x) for bring, x in zip(self.bring, coarser, strict=True)]
        joined = self.join(torch.cat([enlarge(x, brought[0]) for x in brought], 1))
        x = self.finish(torch.cat((enlarge(joined, fine), fine), 1))
        if not every_head:
            return [self.heads[-1](x)]
        given = [x, joined, *brought[1:-1]]
        return [head(one) for head, one in zip(reversed(self.heads), given[: len(self.heads)], strict=True)]


def build_segformer(plan: NetworkPlan, dimensions: int, channels: int, classes: int) -> EncoderDecoder:
    """A SegFormer."""
    encoder, decoder = SegFormerEncoder(plan, dimensions, channels), LightDecoder(plan, dimensions, classes)
    return EncoderDecoder(plan, dimensions, channels, encoder, decoder)
