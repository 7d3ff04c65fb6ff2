"""Arithmetic on a NetworkPlan: feature-map elements, parameters, FLOPs, and a rough estimate of training memory.

Nothing here makes a network or imports torch. The number of elements is nnU-Net's own proxy for GPU memory; FLOPs count
two for each multiplication with its addition, convolutions only. The estimate in bytes is rough (within about a third).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from medseg.arrays import Triple
from medseg.planning.architectures import architecture
from medseg.planning.plan import NetworkPlan

_BYTES_PER_ELEMENT = {"cpu": 16, "cuda": 7, "mps": 16, "any": 7}
"""Per feature-map element and sample in training. CUDA: nnU-Net's 560e6 elements at batch 2 take 7.7 GB in half
precision. float32: the outputs of convolution and norm, kept for the backward pass, and two gradients in flight."""
_BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments of the optimizer, float32."""


def voxels_per_stage(network: NetworkPlan, patch: Triple) -> tuple[int, ...]:
    """Voxels of the feature map of each stage, finest first, for one patch (z, y, x)."""
    sizes = list(patch)
    found = []
    for stride in network.strides:
        sizes = [math.ceil(n / step) for n, step in zip(sizes, stride, strict=True)]
        found.append(math.prod(sizes))
    return tuple(found)


def feature_map_elements(network: NetworkPlan, patch: Triple, classes: int, every_head: bool = False) -> int:
    """nnU-Net's memory proxy: channels x voxels summed over every convolution's output, for one patch (z, y, x).

    ``classes`` counts the background; ``every_head`` counts the deep-supervision heads, which the planner does not.
    """
    voxels = voxels_per_stage(network, patch)
    total = _encoder_elements(network, voxels)
    finest_first = list(reversed(network.decoder_convolutions))
    for stage, convolutions in enumerate(finest_first):
        total += (convolutions + 1) * network.features[stage] * voxels[stage]  # + 1: the transposed convolution
        total += classes * voxels[stage] if every_head or stage == 0 else 0
    return total


def _encoder_elements(network: NetworkPlan, voxels: tuple[int, ...]) -> int:
    layers = [f * n for f, n in zip(network.features, voxels, strict=True)]
    if architecture(network.name).blocks == "plain":
        return sum(count * size for count, size in zip(network.encoder_convolutions, layers, strict=True))
    total = layers[0]  # the stem
    before, strides = network.features[0], network.strides
    for stage, blocks in enumerate(network.encoder_convolutions):
        changes = network.features[stage] != before or math.prod(strides[stage]) > 1
        total += (2 * blocks + changes) * layers[stage]
        before = network.features[stage]
    return total


@dataclass(frozen=True)
class _Layer:
    """One convolution."""

    stage: int
    inputs: int
    outputs: int
    taps: int
    """Multiplications per output voxel and pair of channels."""
    weights: int
    """Weights per pair of channels; in a transposed convolution each serves another voxel."""
    vectors: int = 3
    """Parameters per output channel beside the weights: a bias, and the two of an instance norm."""


def _layers(network: NetworkPlan, channels: int, classes: int) -> Iterator[_Layer]:
    features, kernels = network.features, [math.prod(kernel) for kernel in network.kernels]
    encoder = _residual_encoder if architecture(network.name).blocks == "residual" else _plain_encoder
    yield from encoder(network, channels)
    for stage, count in enumerate(reversed(network.decoder_convolutions)):
        step = math.prod(network.strides[stage + 1])
        yield _Layer(stage, features[stage + 1], features[stage], 1, step, vectors=1)
        width = 2 * features[stage]
        for _ in range(count):
            yield _Layer(stage, width, features[stage], kernels[stage], kernels[stage])
            width = features[stage]
        if network.deep_supervision or stage == 0:
            yield _Layer(stage, features[stage], classes, 1, 1, vectors=1)


def _plain_encoder(network: NetworkPlan, channels: int) -> Iterator[_Layer]:
    width = channels
    for stage, count in enumerate(network.encoder_convolutions):
        taps = math.prod(network.kernels[stage])
        for _ in range(count):
            yield _Layer(stage, width, network.features[stage], taps, taps)
            width = network.features[stage]


def _residual_encoder(network: NetworkPlan, channels: int) -> Iterator[_Layer]:
    width = network.features[0]
    stem = math.prod(network.kernels[0])
    yield _Layer(0, channels, width, stem, stem)
    for stage, count in enumerate(network.encoder_convolutions):
        taps, features = math.prod(network.kernels[stage]), network.features[stage]
        for _ in range(count):
            yield _Layer(stage, width, features, taps, taps)
            yield _Layer(stage, features, features, taps, taps)
            if width != features:
                yield _Layer(stage, width, features, 1, 1, vectors=2)
            width = features


def forward_flops(network: NetworkPlan, patch: Triple, channels: int, classes: int) -> int:
    """FLOPs of one patch (z, y, x) through the network, all heads included; training takes about three times that."""
    voxels = voxels_per_stage(network, patch)
    layers = _layers(network, channels, classes)
    return 2 * sum(layer.taps * layer.inputs * layer.outputs * voxels[layer.stage] for layer in layers)


def parameter_count(network: NetworkPlan, channels: int, classes: int) -> int:
    """Weights and biases of the network, instance norms and heads included."""
    return sum(x.weights * x.inputs * x.outputs + x.vectors * x.outputs for x in _layers(network, channels, classes))


def training_bytes(
    network: NetworkPlan, patch: Triple, batch: int, channels: int, classes: int, device: str = "cpu"
) -> int:
    """About how much memory training takes on a device: weights, gradients, optimizer, and what is kept for backward.

    Rough: the allocator, the libraries' work space and the images themselves are not in it.
    """
    kept = batch * feature_map_elements(network, patch, classes, every_head=network.deep_supervision)
    bytes_each = _BYTES_PER_ELEMENT.get(device, _BYTES_PER_ELEMENT["cpu"])
    return kept * bytes_each + _BYTES_PER_PARAMETER * parameter_count(network, channels, classes)
