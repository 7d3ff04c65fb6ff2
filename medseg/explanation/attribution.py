"""What of the image itself a score depends on: Integrated Gradients and occlusion, by captum.

Sundararajan et al. 2017; Zeiler & Fergus 2014. Needs the extra ``explain``. The image is compared with a blurred copy
of itself: under instance normalisation a constant one is no neutral input. What the gradients do not account for is
given as a share of the difference in score.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from medseg.errors import SettingsError
from medseg.explanation.target import Target

_STEPS = 48
_WINDOWS = 8
"""Occluding boxes have this share of the patch's edge, and stand half a box apart."""


def blurred(patch: Tensor) -> Tensor:
    """A patch ``(1, C, Z, Y, X)`` without detail: the mean of a box of half its size around each voxel, twice."""
    size = [max(length // 2, 1) // 2 * 2 + 1 for length in patch.shape[2:]]
    for _ in range(2):
        patch = avg_pool3d(patch, size, stride=1, padding=[length // 2 for length in size], count_include_pad=False)
    return patch


def integrated_gradients(target: Target) -> tuple[Tensor, float]:
    """Positive evidence ``(Z, Y, X)``, summed over channels, and the share of the score that is not accounted for.

    Raises SettingsError without captum.
    """
    captum, start = _captum(), blurred(target.patch)
    method = captum.IntegratedGradients(target.score)
    found = method.attribute(target.patch, baselines=start, n_steps=_STEPS, internal_batch_size=1)
    with torch.no_grad():
        difference = float(target.score(target.patch) - target.score(start))
    missing = abs(float(found.sum()) - difference) / max(abs(difference), 1e-12)
    return found.detach().sum(dim=(0, 1)).relu().float(), missing


def occlusion(target: Target) -> Tensor:
    """By how much the score falls where a box is replaced by its blurred copy ``(Z, Y, X)``; only falls are kept.

    Raises SettingsError without captum.
    """
    captum = _captum()
    window = [max(length // _WINDOWS, 1) for length in target.patch.shape[2:]]
    with torch.no_grad():
        found = captum.Occlusion(target.score).attribute(
            target.patch,
            sliding_window_shapes=(target.patch.shape[1], *window),
            strides=(target.patch.shape[1], *(max(length // 2, 1) for length in window)),
            baselines=blurred(target.patch),
        )
    return found.mean(dim=(0, 1)).relu().float()


def _captum() -> ModuleType:
    try:
        from captum import attr
    except ImportError:
        raise SettingsError(
            "This method needs captum, which is not installed. Install it with: pip install 'medseg[explain]'."
        ) from None
    return attr
