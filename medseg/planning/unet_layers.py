"""The layers of the U-Nets: plain and residual encoder, and the decoder that both share.

Knows nothing of torch; what is described is built in ``medseg.networks.unet`` and ``medseg.networks.residual_unet``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from medseg.arrays import Triple
from medseg.planning.layers import Grid, Layer, Parts, kept_map, stage_grids
from medseg.planning.plan import NetworkPlan


def unet(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the plain U-Net."""
    yield from plain_encoder(network, channels)
    yield from unet_decoder(network, classes)


def residual_unet(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the U-Net with a residual encoder."""
    yield from residual_encoder(network, channels)
    yield from unet_decoder(network, classes)


def convolution(grid: Grid, inputs: int, outputs: int, kernel: Triple) -> Layer:
    """A ConvBlock: convolution with bias, instance norm, leaky ReLU in place."""
    taps = math.prod(kernel)
    return Layer(grid, inputs, outputs, taps, taps, vectors=3, kept=2)


def plain_encoder(network: NetworkPlan, channels: int) -> Iterator[Layer]:
    """Stages of convolutions, of which the first strides."""
    width = channels
    for stage, grid in enumerate(stage_grids(network)):
        for _ in range(network.encoder_convolutions[stage]):
            yield convolution(grid, width, network.features[stage], network.kernels[stage])
            width = network.features[stage]


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
        width = 2 * features[stage]
        for _ in range(count):
            yield convolution(grid, width, features[stage], network.kernels[stage])
            width = features[stage]
        if network.deep_supervision or stage == 0:
            yield Layer(grid, features[stage], classes, kept=0, head=True)
