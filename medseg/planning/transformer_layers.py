"""The layers of the networks with attention between places: TransUNet, Swin UNETR, SegFormer.

Knows nothing of torch; what is described is built in the modules of ``medseg.networks`` with the same names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from medseg.arrays import Triple
from medseg.planning.layers import Attention, Grid, Layer, Part, Parts, kept_map, stage_grids
from medseg.planning.plan import NetworkPlan
from medseg.planning.unet_layers import convolution, plain_stage, unet_decoder

EXPANSION = 4
"""Times the channels inside a block's feed-forward."""
POSITIONS = {2: 16, 3: 8}
"""Edge of the table of trainable positions, by dimensions; it is interpolated to the map."""
_WINDOW = 7
"""Edge of Swin's windows."""
_HEAD_WIDTH = 16
"""Channels of an attention head, or the nearest more with which the heads come out even."""


def heads_of(channels: int) -> int:
    """Attention heads for so many channels."""
    most = max(channels // _HEAD_WIDTH, 1)
    return next(heads for heads in range(most, 0, -1) if channels % heads == 0)


def is_flat(network: NetworkPlan) -> bool:
    """Whether the network never looks along z, as every 2D one."""
    return all(step[0] == 1 for step in (*network.strides, *network.kernels))


def window_of(network: NetworkPlan) -> Triple:
    """Swin's window (z, y, x)."""
    return (1 if is_flat(network) else _WINDOW, _WINDOW, _WINDOW)


def reductions(network: NetworkPlan) -> tuple[Triple, ...]:
    """From the grid of each stage but the first to the coarsest: what SegFormer's keys are averaged over."""
    grids = stage_grids(network)
    found = []
    for grid in grids[1:]:
        z, y, x = (last // step for last, step in zip(grids[-1].step, grid.step, strict=True))
        found.append((z, y, x))
    return tuple(found)


def joined_width(network: NetworkPlan) -> int:
    """Channels to which SegFormer's decoder brings every stage."""
    return network.features[1]


def transunet(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of TransUNet."""
    grid, width = stage_grids(network)[-1], network.features[-1]
    widths = (channels, *network.features)
    *counts, blocks = network.encoder_convolutions
    for stage, count in enumerate(counts):
        yield from plain_stage(network, stage, widths[stage], count)
    taps = math.prod(network.strides[-1])
    yield Layer(grid, widths[-2], width, taps, taps)
    edge = POSITIONS[2] ** 2 if is_flat(network) else POSITIONS[3] ** 3
    yield Layer(grid, 0, width, 0, 0, vectors=0, kept=0, counted=False, table=width * edge)
    for _ in range(blocks):
        yield _norm(grid, width)
        yield Layer(grid, width, 3 * width)
        yield Attention(grid, width, heads_of(width), kept=1)
        yield from _rest_of_block(grid, width)
    yield _norm(grid, width)
    yield from unet_decoder(network, classes)


def swin_unetr(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of Swin UNETR."""
    grids, features, window = stage_grids(network), network.features, window_of(network)
    yield from plain_stage(network, 0, channels, network.encoder_convolutions[0])
    table = math.prod(2 * n - 1 for n in window)
    for stage in range(1, len(features)):
        grid, width = grids[stage], features[stage]
        taps, windows = math.prod(network.strides[stage]), replace(grid, window=window)
        yield Layer(grid, features[stage - 1], width, taps, taps)
        for _ in range(network.encoder_convolutions[stage]):
            heads = heads_of(width)
            yield _norm(grid, width, kept=0)
            yield Layer(windows, width, 3 * width, kept=0)
            yield Attention(windows, width, heads, table=table * heads, kept=5, scores_kept=1)
            yield from _rest_of_block(grid, width, windows)
        yield kept_map(grid, width)  # normed
        yield convolution(grid, width, width, network.kernels[stage])
        yield convolution(grid, width, width, network.kernels[stage])
    yield from unet_decoder(network, classes)


def segformer(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the SegFormer."""
    grids, features, kernels = stage_grids(network), network.features, network.kernels
    yield from plain_stage(network, 0, channels, network.encoder_convolutions[0])
    for stage in range(1, len(features)):
        grid, width = grids[stage], features[stage]
        yield convolution(grid, features[stage - 1], width, kernels[stage])
        for _ in range(network.encoder_convolutions[stage]):
            yield from _efficient_block(grid, grids[-1], width, kernels[stage])
    width, first = joined_width(network), features[0]
    for stage in range(1, len(features)):
        yield Layer(grids[stage], features[stage], width, kept=0)
    yield kept_map(grids[1], (len(features) - 1) * width)
    yield convolution(grids[1], (len(features) - 1) * width, width, (1, 1, 1))
    yield kept_map(grids[0], width + first)
    yield convolution(grids[0], width + first, first, kernels[0])
    for stage in range(len(features) - 1 if network.deep_supervision else 1):
        yield Layer(grids[stage], width if stage else first, classes, kept=0, head=True)


def _efficient_block(grid: Grid, coarse: Grid, width: int, kernel: Triple) -> Iterator[Part]:
    inner, taps = EXPANSION * width, math.prod(kernel)
    yield _norm(grid, width)
    yield Layer(grid, width, width)  # queries
    yield kept_map(coarse, width)  # averaged
    yield Layer(coarse, width, width, vectors=3, kept=2)
    yield Layer(coarse, width, 2 * width)
    yield Attention(grid, width, heads_of(width), keys=coarse, kept=1)
    yield Layer(grid, width, width)
    yield _norm(grid, width)
    yield Layer(grid, width, inner)
    yield Layer(grid, 1, inner, taps, taps, kept=2)
    yield Layer(grid, inner, width)


def _norm(grid: Grid, width: int, kept: int = 1) -> Layer:
    return Layer(grid, 0, width, 0, 0, vectors=2, kept=kept, counted=False)


def _rest_of_block(grid: Grid, width: int, windows: Grid | None = None) -> Iterator[Layer]:
    """What follows attention: a linear map (in padded windows, where there are any), norm, two linear maps."""
    yield Layer(grid, width, width, worked=windows)
    yield _norm(grid, width)
    yield Layer(grid, width, EXPANSION * width, kept=2)
    yield Layer(grid, EXPANSION * width, width)
