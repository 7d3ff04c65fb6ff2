"""The layers of the U-Nets: plain, residual, with attention gates, nested.

Knows nothing of torch; what is described is built in the modules of ``medseg.networks`` with the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from medseg.arrays import Triple
from medseg.planning.layers import Grid, Layer, Parts, kept_map, stage_grids
from medseg.planning.plan import AttentionName, NetworkPlan

SPATIAL_KERNEL = 7
"""Of convolutional block attention, along the axes in which its stage looks at all (Woo et al. 2018)."""
_SQUEEZE = 16
"""Channels to a channel inside squeeze-and-excitation (Hu et al. 2018)."""


def unet(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the plain U-Net."""
    yield from plain_encoder(network, channels)
    yield from unet_decoder(network, classes)


def residual_unet(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the U-Net with a residual encoder."""
    yield from residual_encoder(network, channels)
    yield from unet_decoder(network, classes)


def attention_unet(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the U-Net with attention gates."""
    yield from plain_encoder(network, channels)
    yield from unet_decoder(network, classes)
    grids, features = stage_grids(network), network.features
    for stage in range(len(features) - 1):
        fine, coarse, width = grids[stage], grids[stage + 1], gate_width(features[stage])
        taps = math.prod(network.strides[stage + 1])
        yield Layer(coarse, features[stage], width, taps, taps, vectors=0, kept=0)
        yield Layer(coarse, features[stage + 1], width)  # the sum of both is kept once
        yield Layer(coarse, width, 1)
        yield kept_map(fine, 1)  # the gate at the skip's size


def unet_plus_plus(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the U-Net++."""
    yield from plain_encoder(network, channels)
    grids, features = stage_grids(network), network.features
    deepest = len(features) - 1
    for j in range(1, deepest + 1):
        for i in range(deepest + 1 - j):
            step = math.prod(network.strides[i + 1])
            yield Layer(grids[i], features[i + 1], features[i], taps=1, weights=step)
            yield kept_map(grids[i], j * features[i])
            yield from plain_stage(network, i, (j + 1) * features[i], network.decoder_convolutions[-1 - i])
    for _ in range(deepest if network.deep_supervision else 1):
        yield Layer(grids[0], features[0], classes, kept=0, head=True)


def gate_width(skip: int) -> int:
    """Channels inside the attention gate of a skip connection."""
    return max(skip // 2, 1)


def squeezed(channels: int) -> int:
    """Channels inside squeeze-and-excitation and convolutional block attention."""
    return channels // min(_SQUEEZE, channels)


def convolution(grid: Grid, inputs: int, outputs: int, kernel: Triple) -> Layer:
    """A ConvBlock: convolution with bias, instance norm, leaky ReLU in place."""
    taps = math.prod(kernel)
    return Layer(grid, inputs, outputs, taps, taps, vectors=3, kept=2)


def plain_encoder(network: NetworkPlan, channels: int) -> Iterator[Layer]:
    """Stages of convolutions, of which the first strides."""
    widths = (channels, *network.features)
    for stage, count in enumerate(network.encoder_convolutions):
        yield from plain_stage(network, stage, widths[stage], count)


def plain_stage(network: NetworkPlan, stage: int, inputs: int, count: int) -> Iterator[Layer]:
    """Convolutions at a stage, with its attention if there is any."""
    grid, width, kernel = stage_grids(network)[stage], network.features[stage], network.kernels[stage]
    for i in range(count):
        yield convolution(grid, width if i else inputs, width, kernel)
    yield from _attention(network.attention, grid, width, kernel)


def _attention(name: AttentionName, grid: Grid, width: int, kernel: Triple) -> Iterator[Layer]:
    if name == "none":
        return
    times = 2 if name == "cbam" else 1  # both means and maxima go through the same two layers
    yield Layer(grid, width, squeezed(width), times, pooled=True, counted=False)
    yield Layer(grid, squeezed(width), width, times, pooled=True, counted=False)
    yield kept_map(grid, width)
    if name == "cbam":
        taps = math.prod(SPATIAL_KERNEL if k > 1 else 1 for k in kernel)
        yield kept_map(grid, width)
        yield kept_map(grid, 2)
        yield Layer(grid, 2, 1, taps, taps)


def residual_encoder(network: NetworkPlan, channels: int) -> Iterator[Layer]:
    """A stem, and stages of residual blocks, of which the first strides."""
    grids = stage_grids(network)
    width = network.features[0]
    yield convolution(grids[0], channels, width, network.kernels[0])
    for stage, grid in enumerate(grids):
        features, kernel = network.features[stage], network.kernels[stage]
        strides = max(network.strides[stage]) > 1
        for _ in range(network.encoder_convolutions[stage]):
            yield convolution(grid, width, features, kernel)
            yield convolution(grid, features, features, kernel)
            if width != features:
                if strides:
                    yield kept_map(grid, width)  # pooled, and read by the 1x1 convolution
                yield Layer(grid, width, features, vectors=2)  # its norm's output goes into the sum, and is not kept
            elif strides:
                yield Layer(grid, 0, features, taps=0, weights=0, vectors=0, kept=0)  # pooled, and counted by nnU-Net
            width, strides = features, False


def unet_decoder(network: NetworkPlan, classes: int) -> Iterator[Layer]:
    """From the finest stage on: transposed convolution, concatenation with the skip, convolutions, head."""
    grids, features = stage_grids(network), network.features
    for stage, count in enumerate(reversed(network.decoder_convolutions)):
        grid = grids[stage]
        step = math.prod(network.strides[stage + 1])
        yield Layer(grid, features[stage + 1], features[stage], taps=1, weights=step)
        yield kept_map(grid, features[stage])
        yield from plain_stage(network, stage, 2 * features[stage], count)
        if network.deep_supervision or stage == 0:
            yield Layer(grid, features[stage], classes, kept=0, head=True)
