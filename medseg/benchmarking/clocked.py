"""A network that adds up the time spent in it, so that what surrounds it can be told apart; needs only torch."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


class Clocked(nn.Module):
    """The same network with a clock; on a GPU it waits for the end of every call."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.device, self.seconds = network, device, 0.0

    def forward(self, tiles: Tensor) -> Tensor:
        """What the network gives."""
        self._wait()
        started = time.perf_counter()
        result = self.network(tiles)
        self._wait()
        self.seconds += time.perf_counter() - started
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
