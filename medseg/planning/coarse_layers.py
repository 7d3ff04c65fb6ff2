"""The layers of the networks whose decoder ends at a coarser stage than the image: DeepLabV3+ and the light network.

Knows nothing of torch; what is described is built in ``medseg.networks.deeplab`` and ``medseg.networks.light``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from medseg.arrays import Triple
from medseg.planning.layers import Grid, Layer, Parts, kept_map, stage_grids
from medseg.planning.plan import NetworkPlan
from medseg.planning.unet_layers import convolution, residual_encoder, squeezed

RATES = (2, 4, 6)
"""Dilations of the pyramid's 3x3 convolutions; a fourth branch is 1x1, a fifth the mean of the image. The paper's 6, 12
and 18 would look past the coarse maps of a medical patch."""


def finest_stage(network: NetworkPlan) -> int:
    """The stage at which the decoder ends."""
    return 1 if len(network.features) > 2 else 0


def auxiliary_stages(network: NetworkPlan) -> tuple[int, ...]:
    """The stages of the encoder that have a head in training, coarsest first."""
    last = len(network.features) - 2
    return tuple(range(last, finest_stage(network), -1)) if network.deep_supervision else ()


def undivided(network: NetworkPlan) -> NetworkPlan:
    """The network with a last stage that dilates where it would stride."""
    return network.model_copy(update={"strides": (*network.strides[:-1], (1, 1, 1))})


def pyramid_width(network: NetworkPlan) -> int:
    """Channels of each branch of DeepLab's pyramid."""
    return max(network.features[-1] // 2, 1)


def deeplab(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of DeepLabV3+."""
    dilated = undivided(network)
    grids, stage = stage_grids(dilated), finest_stage(network)
    width, low, kernel = pyramid_width(network), network.features[0], network.kernels[-1]
    yield from residual_encoder(dilated, channels)
    yield convolution(grids[-1], network.features[-1], width, (1, 1, 1))
    for _ in RATES:
        yield convolution(grids[-1], network.features[-1], width, kernel)
    yield Layer(grids[-1], network.features[-1], width, pooled=True, counted=False)
    branches = len(RATES) + 2
    yield kept_map(grids[-1], branches * width)
    yield convolution(grids[-1], branches * width, width, (1, 1, 1))
    yield convolution(grids[stage], network.features[stage], low, (1, 1, 1))
    yield kept_map(grids[stage], width + low)
    inputs = width + low
    for _ in range(network.decoder_convolutions[-1]):
        yield from separable(grids[stage], inputs, width, network.kernels[stage])
        inputs = width
    yield from _heads(network, grids, width, classes)


def light(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the light network."""
    grids, features, stage = stage_grids(network), network.features, finest_stage(network)
    fine, width = grids[stage], features[stage]
    yield convolution(fine, channels, features[0], network.kernels[0])
    inputs = features[0]
    for _ in range(network.encoder_convolutions[0]):
        yield from separable(fine, inputs, width, network.kernels[stage])
        inputs = width
    for deeper in range(stage + 1, len(features)):
        for _ in range(network.encoder_convolutions[deeper]):
            yield from separable(grids[deeper], inputs, features[deeper], network.kernels[deeper])
            inputs = features[deeper]
    yield Layer(grids[-1], features[-1], features[-1], pooled=True, counted=False)
    yield kept_map(grids[-1], features[-1])
    yield convolution(grids[-1], features[-1], width, (1, 1, 1))
    yield kept_map(fine, 2 * width)
    yield convolution(fine, 2 * width, width, (1, 1, 1))
    yield Layer(fine, width, squeezed(width), pooled=True, counted=False)
    yield Layer(fine, squeezed(width), width, pooled=True, counted=False)
    yield kept_map(fine, width)
    yield from _heads(network, grids, width, classes)


def separable(grid: Grid, inputs: int, outputs: int, kernel: Triple) -> Iterator[Layer]:
    """A SeparableBlock: depthwise, then pointwise, each with norm and activation."""
    taps = math.prod(kernel)
    yield Layer(grid, 1, inputs, taps, taps, vectors=3, kept=2)
    yield convolution(grid, inputs, outputs, (1, 1, 1))


def _heads(network: NetworkPlan, grids: tuple[Grid, ...], width: int, classes: int) -> Iterator[Layer]:
    for stage in auxiliary_stages(network):
        yield Layer(grids[stage], network.features[stage], classes, kept=0, head=True)
    yield Layer(grids[finest_stage(network)], width, classes, kept=0, head=True)
