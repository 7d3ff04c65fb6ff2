"""Where the scores of a sliding window are added up: on the device, in the computer's memory, or in a file.

Knows nothing of tiles. A file is for what the memory can't hold: it is memory-mapped, and its pages are given back
after every few rows, so that the program's own memory does not grow with it. It has no name from the start, so that
nothing of it is left behind, however the program ends.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from math import prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from medseg.errors import MedsegError


@runtime_checkable
class Storage(Protocol):
    """Gives tensors to add up in."""

    at_once: int
    """Bytes of its tensors that may be touched before ``settle`` is called."""

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A new tensor of zeros; raises MedsegError where there is no room for it."""
        ...

    def settle(self) -> None:
        """Called when a part of the tensors has been written and another one will be needed."""


class OnDevice:
    """Tensors in the memory of a device."""

    at_once = sys.maxsize

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def settle(self) -> None:
        """Nothing to do."""


class OnDisk:
    """Tensors in nameless files of a folder, which is made if need be."""

    at_once = 1 << 27

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: list[mmap.mmap] = []

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = prod(shape) * dtype.itemsize
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is found now, and not by a crash later
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise MedsegError(
                f"A file of {size / 1e9:.1f} GB for scores could not be made in {self._folder}: "
                f"{error.strerror or error}. Free some space there, or allow more memory with max_memory=."
            ) from error
        self._mapped.append(mapped)
        return torch.frombuffer(mapped, dtype=dtype).view(shape)

    def settle(self) -> None:
        """Give the pages back; the system keeps or writes them as it has room."""
        for mapped in self._mapped:
            mapped.madvise(mmap.MADV_DONTNEED)
