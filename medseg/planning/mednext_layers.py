"""The layers of MedNeXt.

Knows nothing of torch; what is described is built in ``medseg.networks.mednext``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from medseg.arrays import Triple
from medseg.planning.layers import Grid, Layer, Parts, stage_grids
from medseg.planning.plan import NetworkPlan

EXPANSION = 2
"""Times the channels inside a block: that of MedNeXt-S in all stages."""


def mednext(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of MedNeXt."""
    grids, features, kernels = stage_grids(network), network.features, network.kernels
    yield Layer(grids[0], channels, features[0])
    for stage, blocks in enumerate(network.encoder_convolutions):
        if stage:
            yield from _block(grids[stage], features[stage - 1], features[stage], kernels[stage], shortcut=True)
        for _ in range(blocks):
            yield from _block(grids[stage], features[stage], features[stage], kernels[stage])
    for stage, blocks in enumerate(reversed(network.decoder_convolutions)):
        yield from _block(
            grids[stage], features[stage + 1], features[stage], kernels[stage], grids[stage + 1], shortcut=True
        )
        for _ in range(blocks):
            yield from _block(grids[stage], features[stage], features[stage], kernels[stage])
        if network.deep_supervision or stage == 0:
            yield Layer(grids[stage], features[stage], classes, kept=0, head=True)


def _block(
    grid: Grid, inputs: int, outputs: int, kernel: Triple, below: Grid | None = None, shortcut: bool = False
) -> Iterator[Layer]:
    """``below`` is the grid from which a transposed convolution comes; ``shortcut`` has a convolution of its own."""
    taps = math.prod(kernel)
    yield Layer(grid, 1, inputs, taps, taps, vectors=3, kept=2, worked=below)
    yield Layer(grid, inputs, EXPANSION * inputs, kept=2)
    yield Layer(grid, EXPANSION * inputs, outputs)
    if shortcut:
        yield Layer(grid, inputs, outputs, kept=0, worked=below)
