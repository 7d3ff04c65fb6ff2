"""Class activation maps of a segmentation network: Seg-Grad-CAM and HiResCAM.

Rules: Seg-Grad-CAM weighs a layer's channels by the mean gradient of the target (Vinogradova et al. 2020); HiResCAM
multiplies gradient and activation voxel by voxel (Draelos & Carin 2020). Only positive evidence is kept, in the values
as they are: nothing is stretched to 1. The hook is gone when the map is there, whatever happens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.explanation.target import Target

CamMethod = Literal["seg_grad_cam", "hires_cam"]


def class_activation_map(target: Target, layer: str, method: CamMethod) -> Tensor:
    """Positive evidence ``(Z, Y, X)`` on the patch's grid, interpolated from the layer's."""
    activation, gradient = activation_and_gradient(target, layer)
    if method == "seg_grad_cam":
        gradient = gradient.mean(dim=tuple(range(2, gradient.ndim)), keepdim=True)
    found = (gradient * activation).sum(dim=1, keepdim=True).relu()
    if found.ndim == 4:  # inside a 2D network
        found = found[:, :, None]
    return interpolate(found, size=target.patch.shape[2:], mode="trilinear", align_corners=False)[0, 0]


def activation_and_gradient(target: Target, layer: str) -> tuple[Tensor, Tensor]:
    """What the layer gave, and the gradient of the target's score with respect to it, ``(1, C, ...)``."""
    seen: list[Tensor] = []

    def take(_layer: object, _input: object, output: Tensor) -> Tensor:
        # A leaf of its own: layers behind it that work in place change a copy, and nothing before it needs a gradient.
        seen[:] = [output.detach().requires_grad_(True)]
        return seen[0].clone()

    handle = target.network.get_submodule(layer).register_forward_hook(take)
    try:
        with torch.enable_grad():
            score = target.score(target.patch).sum()
            (gradient,) = torch.autograd.grad(score, seen[0], allow_unused=True)
    finally:
        handle.remove()
    return seen[0].detach(), torch.zeros_like(seen[0]) if gradient is None else gradient
