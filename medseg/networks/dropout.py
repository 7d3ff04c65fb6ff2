"""Dropout of whole feature maps between encoder and decoder, and networks that are one sample of it each.

Knows nothing of which network it is in. Spatial dropout (Tompson et al. 2015) on every map but the finest, which holds
the image's detail; in prediction it may stay on, so that a network disagrees with itself (Gal & Ghahramani 2016;
Kendall et al. 2015, Bayesian SegNet). A sample drops the same features everywhere in an image: it is one network, not
another one in every tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn


class MapDropout(nn.Module):
    """Takes and gives the maps of an encoder ``(B, C, ...)``, finest first.

    In training features are dropped at random for each patch, in prediction none, unless ``seed`` is set: then those
    that follow from it, the same ones in every patch of a batch.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.seed: int | None = None

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if self.share == 0 or (not self.training and self.seed is None):
            return maps
        generator = None if self.training else torch.Generator().manual_seed(self.seed or 0)
        return [maps[0], *(self._dropped(one, generator) for one in maps[1:])]

    def _dropped(self, one: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return F.dropout3d(one, self.share) if one.ndim == 5 else F.dropout2d(one, self.share)
        # Drawn on the CPU, so that every device drops the same.
        kept = torch.rand(one.shape[1], generator=generator) >= self.share
        return one * (kept / (1 - self.share)).to(one).reshape(1, -1, *([1] * (one.ndim - 2)))


class DropoutSample(nn.Module):
    """A network in eval mode with the features dropped that follow from a seed; shares its weights."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        self.network, self.seed = network, seed

    def forward(self, x: Tensor) -> Tensor:
        with _dropping(self.network, self.seed):
            return self.network(x)


@contextmanager
def _dropping(network: nn.Module, seed: int) -> Iterator[None]:
    layers = dropouts_of(network)
    try:
        for layer in layers:
            layer.seed = seed
        yield
    finally:
        for layer in layers:
            layer.seed = None


def dropouts_of(network: nn.Module) -> list[MapDropout]:
    """The layers that drop anything."""
    return [layer for layer in network.modules() if isinstance(layer, MapDropout) and layer.share > 0]
