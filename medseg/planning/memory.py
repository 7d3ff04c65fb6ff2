"""Arithmetic on a NetworkPlan: feature-map elements, parameters, FLOPs, and a rough estimate of training memory.

Nothing here makes a network or imports torch. The number of elements is nnU-Net's own proxy for GPU memory; FLOPs count
two for each multiplication with its addition, convolutions only. The estimate in bytes is rough (within about a third).
"""

from __future__ import annotations

import math

from medseg.arrays import Triple
from medseg.planning.architectures import architecture
from medseg.planning.layers import Parts
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


def layers_of(network: NetworkPlan, channels: int, classes: int) -> Parts:
    """Every layer of the network as it describes itself; ``classes`` counts the background."""
    return architecture(network.name).layers(network, channels, classes)


def feature_map_elements(network: NetworkPlan, patch: Triple, classes: int, every_head: bool = False) -> int:
    """nnU-Net's memory proxy: channels x voxels summed over every convolution's output, for one patch (z, y, x).

    ``classes`` counts the background; ``every_head`` counts the deep-supervision heads, which the planner does not.
    """
    counted = network if every_head else network.model_copy(update={"deep_supervision": False})
    return sum(layer.elements(patch) for layer in layers_of(counted, 1, classes))


def forward_flops(network: NetworkPlan, patch: Triple, channels: int, classes: int) -> int:
    """FLOPs of one patch (z, y, x) through the network, all heads included; training takes about three times that."""
    return 2 * sum(layer.multiplications(patch) for layer in layers_of(network, channels, classes))


def parameter_count(network: NetworkPlan, channels: int, classes: int) -> int:
    """Weights and biases of the network, norms and heads included."""
    return sum(layer.parameters for layer in layers_of(network, channels, classes))


def training_bytes(
    network: NetworkPlan, patch: Triple, batch: int, channels: int, classes: int, device: str = "cpu"
) -> int:
    """About how much memory training takes on a device: weights, gradients, optimizer, and what is kept for backward.

    Rough: the allocator, the libraries' work space and the images themselves are not in it.
    """
    kept = batch * feature_map_elements(network, patch, classes, every_head=network.deep_supervision)
    bytes_each = _BYTES_PER_ELEMENT.get(device, _BYTES_PER_ELEMENT["cpu"])
    return kept * bytes_each + _BYTES_PER_PARAMETER * parameter_count(network, channels, classes)
