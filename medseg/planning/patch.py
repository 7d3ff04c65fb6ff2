"""Patch, network and batch of one configuration, sized for a budget of feature-map elements or for a CPU's speed.

Knows nothing of Cases or files. The GPU rule is nnU-Net v2's: start with a patch that is isotropic in millimetres, clip
it to the median Case, shrink the axis that covers most of the Case until the budget holds, and give what is left to the
batch. The CPU rule narrows the network until an iteration takes about a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.arrays import Triple
from medseg.errors import PlanError
from medseg.planning.architectures import Architecture
from medseg.planning.memory import feature_map_elements, forward_flops
from medseg.planning.plan import NetworkPlan
from medseg.planning.presets import Budget, CpuRules
from medseg.planning.topology import SMALLEST_EDGE, Topology, find_topology

_FIRST_EDGE = {3: 256, 2: 2048}
"""Edge of the cube or square that the patch starts from."""


@dataclass(frozen=True)
class Sizing:
    """What a configuration may cost; all its numbers come from the Preset and the Machine."""

    architecture: Architecture
    channels: int
    classes: int
    base_features: int
    budget: Budget
    smallest_batch: int
    largest_share: float | None
    cpu: CpuRules | None = None
    """None: sized by memory alone."""
    flops_per_second: float = 0.0
    speed_is_measured: bool = False


@dataclass(frozen=True)
class Sized:
    """A network with its patch and batch, and what decided them."""

    network: NetworkPlan
    patch: Triple
    batch: int
    patch_limit: str
    """median, budget or time."""
    batch_limit: str
    """share, budget, smallest or time."""
    iteration_seconds: float | None = None
    """Expected on the CPU."""
    flops_per_second: float = 0.0
    speed_is_measured: bool = False
    budget_elements: float = 0.0
    """Feature-map elements that the budget allows."""


def size_configuration(
    sizing: Sizing, spacing: Sequence[float], median_shape: Sequence[float], dataset_voxels: float
) -> Sized:
    """Network, patch and batch for two or three axes; ``spacing`` in mm, ``dataset_voxels`` over all training Cases."""
    topology = find_topology(spacing, _first_patch(spacing, median_shape))
    limit = "median"
    while True:
        network, patch = to_network(topology, sizing.architecture, sizing.base_features, sizing.budget.widest)
        elements = feature_map_elements(network, patch, sizing.classes)
        if elements / sizing.budget.reference_batch * sizing.budget.fitted_batch <= sizing.budget.elements:
            break
        if not _can_shrink(topology):
            raise PlanError(
                f"No patch fits: even {list(patch)} voxels take {elements:.3g} feature-map elements, and the budget is "
                f"{sizing.budget.elements:.3g}. Plan for more memory, or with fewer base_features."
            )
        topology, limit = _reduced(topology, spacing, median_shape), "budget"
    batch, batch_limit = _largest_batch(sizing, elements, patch, dataset_voxels)
    sized = Sized(network, patch, batch, limit, batch_limit, budget_elements=sizing.budget.elements)
    return sized if sizing.cpu is None else _for_cpu(sizing, sizing.cpu, sized, topology, spacing, median_shape)


def to_network(topology: Topology, kind: Architecture, base_features: int, widest: float) -> tuple[NetworkPlan, Triple]:
    """The NetworkPlan of a topology, and its patch as (z, y, x); two axes get a z of 1."""
    depth = len(topology.strides)
    encoder = kind.encoder + (kind.encoder[-1],) * depth
    network = NetworkPlan(
        name=kind.name,
        features=tuple(min(base_features * 2**stage, round(base_features * widest)) for stage in range(depth)),
        strides=tuple(_triple(stride) for stride in topology.strides),
        kernels=tuple(_triple(kernel) for kernel in topology.kernels),
        encoder_convolutions=encoder[:depth],
        decoder_convolutions=(kind.decoder,) * (depth - 1),
    )
    return network, _triple(topology.patch)


def iteration_seconds(sizing: Sizing, network: NetworkPlan, patch: Triple, batch: int) -> float:
    """Expected time of a training iteration: three times the forward FLOPs over the measured speed."""
    flops = 3 * batch * forward_flops(network, patch, sizing.channels, sizing.classes)
    return flops / sizing.flops_per_second


def _first_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> list[float]:
    per_mm = 1 / np.array(spacing, dtype=np.float64)
    axes = len(spacing)
    edge = per_mm * (_FIRST_EDGE[axes] ** axes / np.prod(per_mm)) ** (1 / axes)
    patch = [min(round(n), size) for n, size in zip(edge.tolist(), median_shape, strict=True)]
    if len(find_topology(spacing, patch).strides) > 1:
        return patch
    # Images too small to halve even once: padded to where a U-Net has two stages.
    finest = min(spacing)
    return [max(n, 3 * SMALLEST_EDGE) if s == finest else n for n, s in zip(patch, spacing, strict=True)]


def _reduced(topology: Topology, spacing: Sequence[float], median_shape: Sequence[float]) -> Topology:
    """The next smaller patch and its network.

    The axis that covers most of the Case gives way, by the divisor that holds after a first trial reduction: without
    the trial, sizes such as 224 between 256 and 192 would be skipped.
    """
    cover = [n / size for n, size in zip(topology.patch, median_shape, strict=True)]
    axis = max(range(len(cover)), key=lambda a: (cover[a], a))
    trial = list(topology.patch)
    trial[axis] -= topology.divisor[axis]
    patch = list(topology.patch)
    patch[axis] -= find_topology(spacing, trial).divisor[axis]
    return find_topology(spacing, patch)


def _largest_batch(sizing: Sizing, elements: float, patch: Triple, dataset_voxels: float) -> tuple[int, str]:
    batch, limit = round(sizing.budget.elements / elements * sizing.budget.reference_batch), "budget"
    if sizing.largest_share is not None:
        allowed = round(dataset_voxels * sizing.largest_share / math.prod(patch))
        batch, limit = (allowed, "share") if allowed < batch else (batch, limit)
    return (batch, limit) if batch >= sizing.smallest_batch else (sizing.smallest_batch, "smallest")


def _for_cpu(
    sizing: Sizing,
    rules: CpuRules,
    sized: Sized,
    topology: Topology,
    spacing: Sequence[float],
    median_shape: Sequence[float],
) -> Sized:
    """The same network made narrower, and a batch for about an iteration a second; the patch shrinks if it must."""

    def narrowed(width: int) -> tuple[NetworkPlan, Triple, float]:
        network, patch = to_network(topology, sizing.architecture, width, sizing.budget.widest)
        return network, patch, iteration_seconds(sizing, network, patch, sizing.smallest_batch)

    limit = sized.patch_limit
    if narrowed(rules.base_features[-1])[2] > rules.longest_seconds:
        limit = "time"
        while narrowed(rules.base_features[-1])[2] > rules.accepted_seconds and _can_shrink(topology):
            topology = _reduced(topology, spacing, median_shape)

    def limit_of(width: int) -> float:
        return rules.longest_seconds if width == rules.preferred_features else rules.accepted_seconds

    widths = [width for width in rules.base_features if narrowed(width)[2] <= limit_of(width)]
    network, patch, seconds = narrowed(widths[0] if widths else rules.base_features[-1])
    affordable = int(rules.iteration_seconds * sizing.smallest_batch / seconds)
    batch = min(max(affordable, sizing.smallest_batch), sized.batch)
    batch_limit = sized.batch_limit if affordable > batch else "smallest" if affordable < batch else "time"
    return replace(
        sized,
        network=network,
        patch=patch,
        batch=batch,
        patch_limit=limit,
        batch_limit=batch_limit,
        iteration_seconds=seconds * batch / sizing.smallest_batch,
        flops_per_second=sizing.flops_per_second,
        speed_is_measured=sizing.speed_is_measured,
    )


def _can_shrink(topology: Topology) -> bool:
    return max(topology.patch) >= 4 * SMALLEST_EDGE


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = (1,) * (3 - len(values)) + tuple(values)
    return z, y, x
