"""Every method by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from medseg.explanation.attribution import integrated_gradients, occlusion
from medseg.explanation.cam import CamMethod, class_activation_map
from medseg.explanation.layers import choose_layer
from medseg.explanation.rollout import attention_rollout
from medseg.explanation.target import Target

Method = Literal["seg_grad_cam", "hires_cam", "integrated_gradients", "occlusion", "attention_rollout"]


@dataclass(frozen=True)
class Evidence:
    """A map and how it was made."""

    values: Tensor
    """(Z, Y, X) on the patch's grid, 0 or more, as the method gives them."""
    layer: str | None = None
    """Which one a class activation map looked at."""
    unaccounted: float | None = None
    """Of Integrated Gradients: the share of the score that the map does not add up to."""

    @property
    def is_blank(self) -> bool:
        """Whether there is no positive evidence at all."""
        return not bool((self.values > 0).any())


def explain(target: Target, method: Method, layer: str = "auto") -> Evidence:
    """The evidence for a target. Raises SettingsError for an unknown layer or a missing extra."""
    if method in get_args(CamMethod):
        name = choose_layer(target, layer)
        return Evidence(class_activation_map(target, name, method), name)  # type: ignore[arg-type]
    if method == "integrated_gradients":
        values, unaccounted = integrated_gradients(target)
        return Evidence(values, unaccounted=unaccounted)
    if method == "attention_rollout":
        return Evidence(attention_rollout(target))
    return Evidence(occlusion(target))
