"""What is explained: the sum of one output's logits over a region of one patch, from a single pass of one network.

Knows nothing of files. A single pass, because attribution through several passes of the same layer is undefined (captum
gives zeros without a word); Seg-Grad-CAM's target (Vinogradova et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def score(self, patch: Tensor) -> Tensor:
        """The sum over the region for each patch of a batch ``(B, C, Z, Y, X)``: ``(B,)``."""
        return self.network(patch)[:, self.output].masked_fill(~self.region, 0).sum(dim=(1, 2, 3))

    def with_network(self, network: nn.Module) -> Target:
        """The same question to another network."""
        return Target(network, self.patch, self.output, self.region)

    @property
    def value(self) -> float:
        """The mean logit over the region."""
        with torch.no_grad():
            return float(self.score(self.patch)) / int(self.region.sum())
