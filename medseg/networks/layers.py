"""The layers of any network that give feature maps, and how fine those are: read off one pass.

Knows nothing of particular networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def resolutions(network: nn.Module, patch: Tensor) -> dict[str, float]:
    """Every layer that gives a feature map, in the order in which they finish: its size by that of the patch.

    ``patch`` is ``(1, C, Z, Y, X)``; names are dotted. 0.5 is half the resolution along each axis, on average.
    """
    found: dict[str, float] = {}
    dimensions = sum(size > 1 for size in patch.shape[2:])
    voxels = patch[0, 0].numel()

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim >= 4:
            found.pop(name, None)
            found[name] = (output[0, 0].numel() / voxels) ** (1 / max(dimensions, 1))

    layers = [(name, layer) for name, layer in network.named_modules() if name]
    handles = [
        layer.register_forward_hook(lambda _layer, _input, output, name=name: note(name, output))
        for name, layer in layers
    ]
    try:
        with torch.no_grad():
            network(patch)
    finally:
        for handle in handles:
            handle.remove()
    return found
