"""Arithmetic on a NetworkPlan: feature-map elements, parameters, FLOPs, and a rough estimate of training memory.

Nothing here makes a network or imports torch. The number of elements is nnU-Net's own proxy for GPU memory; FLOPs count
two for each multiplication with its addition, convolutions only. The estimate in bytes is rough (within about a third).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from medseg.arrays import Triple
from medseg.planning.architectures import architecture
from medseg.planning.layers import Part, Parts
from medseg.planning.plan import FACTORS, NetworkPlan

_FLOAT = 4
_LABEL = 8
"""Bytes of a label in training."""
_READ_IN_PLANE, _READ_IN_SPACE = 1.4, 4.2
"""Rotated by up to 90 and 30 degrees, and scaled by 0.85 (``medseg.training.augmentation_spatial``)."""
_LIBRARIES = {"cpu": 500_000_000, "cuda": 500_000_000}
_LOSS_MAPS = 6
"""Maps of all classes in the backward pass of the loss: log-probabilities, probabilities and the gradients of both, a
gradient from each class, and their stack."""
_PASSING_MAPS, _PASSING_VOXELS = 4, 4
"""Maps of the widest layer in the backward pass of a block (the gradient and its copies at the activation, which works
in place on the norm's output; the gradient behind it), and floats for each voxel of the patch."""
_MAPPED = 32 * 2**20
"""A CPU's allocator gives larger pieces back to the system at once; smaller ones leave gaps."""
_GAPS_BEGIN, _GAPS = 80_000_000, 0.37
"""Compiled kernels and threads of the first steps, and gaps as a share of the kept maps in smaller pieces."""
_WORKSPACE, _WORKSPACE_SHARE = 1.5e9, 0.4
"""What cuDNN works in and the allocator leaves unused on a GPU, at most this share of the maps. With it the estimates
lie within 5 % of the 7.7, 9.1, 22.7 and 36.6 GB that were published for nnU-Net's presets (nnU-Net Revisited, 2024)."""


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
    return architecture(network.name).layers(network, channels, classes * network.logits_per_class)


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


@dataclass(frozen=True)
class TrainingMemory:
    """What a training step has in memory at its peak, in bytes, term by term."""

    libraries: int
    """Python, torch and the libraries behind it; on a GPU the driver's share."""
    parameters: int
    """Weights and the optimizer's two moments."""
    maps: int
    """Feature maps kept for the backward pass."""
    passing: int
    """Gradients on their way, and what the loss or a convolution needs meanwhile."""
    logits: int
    images: int
    """The batch as read, larger than the patch, and as it goes into the network."""
    unused: int
    """Gaps that the allocator leaves between pieces that come and go, and work space of the libraries."""

    @property
    def step(self) -> int:
        """All but the libraries."""
        return self.total - self.libraries

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def scaled(self, factor: float) -> TrainingMemory:
        """With every term but the libraries multiplied, as a measurement asks for."""
        parts = {field.name: round(getattr(self, field.name) * factor) for field in fields(self)}
        return TrainingMemory(**parts | {"libraries": self.libraries})


def training_memory(
    network: NetworkPlan, patch: Triple, batch: int, channels: int, classes: int, device: str = "cpu"
) -> TrainingMemory:
    """Memory of a training step of ``batch`` patches (z, y, x) with AdamW, float32 on a CPU and half precision on CUDA.

    The peak lies at the beginning of the backward pass, when every map is still there, or at its end, when every
    parameter has a gradient. On a CPU within a fifth of what is measured (tests/benchmarks/training_memory.py).
    """
    layers = list(layers_of(network, channels, classes))
    half = device not in ("cpu", "mps")
    size = 2 if half else 4
    voxels = batch * math.prod(patch)
    widest = batch * max(layer.elements(patch) for layer in layers)
    logits = sum(_FLOAT * batch * layer.elements(patch) for layer in layers if layer.head)
    maps = size * batch * sum(layer.saved(patch) for layer in layers)
    # Of the loss only the finest output counts: those of the others are gone when its turn comes.
    maps_of_loss = _LOSS_MAPS
    if network.head == "learned":  # probabilities and their logarithms of each alternative, and the heads' gradient
        maps_of_loss += 2 * 2**FACTORS + network.logits_per_class
    loss = maps_of_loss * _FLOAT * classes * voxels + (classes - 1) * voxels
    passing = max(loss, _PASSING_MAPS * size * widest + _PASSING_VOXELS * _FLOAT * voxels)
    weights = _FLOAT * parameter_count(network, channels, classes)
    gradients = max(weights - maps - passing, 0)
    images = _FLOAT * channels * voxels * (1 + _read(patch)) + _LABEL * voxels
    return TrainingMemory(
        libraries=_LIBRARIES["cuda" if half else "cpu"],
        parameters=round((3 + half / 2) * weights),
        maps=maps,
        passing=passing + gradients,
        logits=logits,
        images=round(images),
        unused=_unused(layers, patch, batch, maps + passing, half),
    )


def _unused(layers: list[Part], patch: Triple, batch: int, living: int, half: bool) -> int:
    if half:
        return round(min(_WORKSPACE, _WORKSPACE_SHARE * living))
    small = (layer.saved(patch) for layer in layers if _FLOAT * batch * layer.elements(patch) < _MAPPED)
    return round(_GAPS_BEGIN + _GAPS * _FLOAT * batch * sum(small))


def _read(patch: Triple) -> float:
    """Voxels read for a patch over its own, so that its corners are filled when it is rotated."""
    return _READ_IN_PLANE if max(patch) > 3 * patch[0] else _READ_IN_SPACE
