"""Logits that say themselves how sure they are: a mean, and a few ways in which whole regions may be otherwise.

The low-rank part of stochastic segmentation networks (Monteiro et al. 2020): logits are normal about a mean, with a
covariance of a few factors that all voxels share, so that an ambiguous region is there or not as a whole. The normal
distribution is taken at the corners of a cube, which have its mean and covariance, instead of at random: what is
predicted is what was trained, the same every time. Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import torch
from torch import Tensor, nn

from medseg.planning.plan import FACTORS

_SMALLEST = 1e-30
"""Of a probability, so that its logarithm is a number."""


class LearnedNoise(nn.Module):
    """Takes what a head gives ``(B, K * (1 + FACTORS), ...)``: the mean of all logits, then every factor.

    Gives it on as it is in training, and in prediction the logarithm of the expected probabilities ``(B, K, ...)``,
    unless ``is_asked``: then the loss, or whoever wants to know the spread, sees everything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = False

    def forward(self, heads: Tensor) -> Tensor:
        return heads if self.training or self.is_asked else expected_logits(heads)


def alternatives(heads: Tensor) -> Iterator[Tensor]:
    """Equally probable logits ``(B, K, ...)``, float32 (or float64): one for every corner of the cube of factors."""
    mean, *factors = (heads if heads.dtype == torch.float64 else heads.float()).chunk(1 + FACTORS, 1)
    for signs in product((1.0, -1.0), repeat=FACTORS):
        logits = mean
        for sign, factor in zip(signs, factors, strict=True):
            logits = logits + sign * factor
        yield logits


def expected_logits(heads: Tensor) -> Tensor:
    """Logarithm of the mean probabilities ``(B, K, ...)``, whose softmax they are."""
    total = None
    for logits in alternatives(heads):
        p = logits.softmax(1)
        total = p if total is None else total + p
    assert total is not None  # a cube has corners
    return (total / 2**FACTORS).clamp_min(_SMALLEST).log()


def settled(heads: Tensor, classes: int) -> Tensor:
    """Logits of ``classes``, whether a head gives them or what they are expected from."""
    return heads if heads.shape[1] == classes else expected_logits(heads)


class WithFactors(nn.Module):
    """A network in eval mode that gives its mean logits and all factors; shares its weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with _asking(self.network):
            return self.network(x)


@contextmanager
def _asking(network: nn.Module) -> Iterator[None]:
    layers = noises_of(network)
    try:
        for layer in layers:
            layer.is_asked = True
        yield
    finally:
        for layer in layers:
            layer.is_asked = False


def noises_of(network: nn.Module) -> list[LearnedNoise]:
    """The layer by which a network says how sure it is; none for others."""
    return [layer for layer in network.modules() if isinstance(layer, LearnedNoise)]
