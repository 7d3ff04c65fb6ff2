"""Patch, network and batch of one configuration, sized for a budget of feature-map elements.

Knows nothing of Cases or files, nor of the machine (``medseg.planning.fitting``). The rule is nnU-Net v2's: start with
a patch that is isotropic in millimetres, clip it to the median Case, shrink the axis that covers most of the Case until
the budget holds, and give what is left to the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.arrays import Triple
from medseg.errors import PlanError
from medseg.planning.architectures import Architecture
from medseg.planning.memory import TrainingMemory, feature_map_elements
from medseg.planning.plan import NetworkPlan
from medseg.planning.presets import Budget
from medseg.planning.topology import SMALLEST_EDGE, Topology, find_topology

_FIRST_EDGE = {3: 256, 2: 2048}
"""Edge of the cube or square that the patch starts from."""


@dataclass(frozen=True)
class Sizing:
    """What a configuration may cost; all its numbers come from the Preset and the memory that it plans for."""

    architecture: Architecture
    channels: int
    classes: int
    base_features: int
    budget: Budget
    smallest_batch: int
    largest_share: float | None


@dataclass(frozen=True)
class Pace:
    """What is expected of a training within its time."""

    seconds: float
    """Of the whole training."""
    each: float
    """Seconds of an iteration."""
    iterations: int
    passes: float
    """How often a voxel of the Dataset lies in a patch."""


@dataclass(frozen=True)
class Sized:
    """A network with its patch and batch, and what decided them."""

    network: NetworkPlan
    patch: Triple
    batch: int
    topology: Topology
    """From which the network was made."""
    patch_limit: str
    """median, budget, time or memory."""
    batch_limit: str
    """share, budget, smallest, time or memory."""
    budget_elements: float = 0.0
    """Feature-map elements that the budget allows."""
    pace: Pace | None = None
    """How a training goes; None where the machine's speed is not known."""
    wider: tuple[int, float, str] | None = None
    """The next wider network that was not taken: its channels, its seconds an iteration (0 where not known), and what
    stood against it: time, passes or memory."""
    memory: TrainingMemory | None = None
    """Estimate for a training step; None where no machine is known."""


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
        if not can_shrink(topology):
            raise PlanError(
                f"No patch fits: even {list(patch)} voxels take {elements:.3g} feature-map elements, and the budget is "
                f"{sizing.budget.elements:.3g}. Plan for more memory, or with fewer base_features."
            )
        topology, limit = reduced(topology, spacing, median_shape), "budget"
    batch, batch_limit = _largest_batch(sizing, elements, patch, dataset_voxels)
    return Sized(network, patch, batch, topology, limit, batch_limit, sizing.budget.elements)


def to_network(topology: Topology, kind: Architecture, base_features: int, widest: float) -> tuple[NetworkPlan, Triple]:
    """The NetworkPlan of a topology, and its patch as (z, y, x); two axes get a z of 1."""
    depth = len(topology.strides)
    encoder, decoder = kind.counts(depth)
    network = NetworkPlan(
        name=kind.name,
        features=tuple(min(base_features * 2**stage, round(base_features * widest)) for stage in range(depth)),
        strides=tuple(_triple(stride) for stride in topology.strides),
        kernels=tuple(_triple(kernel) for kernel in topology.kernels),
        encoder_convolutions=encoder,
        decoder_convolutions=decoder,
    )
    return network, _triple(topology.patch)


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


def reduced(topology: Topology, spacing: Sequence[float], median_shape: Sequence[float]) -> Topology:
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


def can_shrink(topology: Topology) -> bool:
    """Whether a smaller patch would still be worth a network."""
    return max(topology.patch) >= 4 * SMALLEST_EDGE


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = (1,) * (3 - len(values)) + tuple(values)
    return z, y, x
