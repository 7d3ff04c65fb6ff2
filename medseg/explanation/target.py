"""What is explained: the sum of one output's logits over a region of one patch, from a single pass of one network.

Knows nothing of files. A single pass, because attribution through several passes of the same layer is undefined (captum
gives zeros without a word); Seg-Grad-CAM's target (Vinogradova et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """One question to one network."""

    network: nn.Module
    """In eval mode."""
    patch: Tensor
    """(1, C, Z, Y, X)."""
    output: int
    """Which of the network's output channels."""
    region: Tensor
    """Where, (Z, Y, X), booleans; at least one voxel."""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """What makes probabilities of the network's outputs."""

    def score(self, patch: Tensor) -> Tensor:
        """The sum over the region for each patch of a batch ``(B, C, Z, Y, X)``: ``(B,)``."""
        return self.network(patch)[:, self.output].masked_fill(~self.region, 0).sum(dim=(1, 2, 3))

    def with_network(self, network: nn.Module) -> Target:
        """The same question to another network."""
        return replace(self, network=network)

    @property
    def value(self) -> float:
        """The mean logit over the region."""
        with torch.no_grad():
            return float(self.score(self.patch)) / int(self.region.sum())

    def certainty(self) -> tuple[float, float]:
        """(the output's mean probability over the region, what a network gives it that knows nothing)."""
        with torch.no_grad():
            logits = self.network(self.patch)
        several = self.activation == "softmax"
        probabilities = logits.softmax(dim=1) if several else logits.sigmoid()
        return float(probabilities[0, self.output][self.region].mean()), 1 / logits.shape[1] if several else 0.5
