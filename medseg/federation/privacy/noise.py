"""Gaussian noise that nobody can draw again: ChaCha20 under a key from the operating system.

Knows nothing of what is protected. ``torch.Generator`` would not do on a CPU: its Mersenne twister takes 32 bits of the
seed, so whoever sees a noised sum can try every seed, and numpy's global generator is whatever somebody seeded it with.
Each number is the sum of four, halved, so that its last bits don't tell what it was added to (Holohan & Braghin 2021,
arXiv 2107.10138; Opacus' secure mode, whose own generator is no longer maintained).
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

DESCRIPTION = "ChaCha20 keyed by the operating system for noise; the operating system's own for drawing patients"
_PIECE = 1 << 20
"""Numbers made at once, so that a large network does not need several copies of itself in float64."""


class SystemNoise:
    """Standard normal numbers from a key that is drawn anew and never leaves this object."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

        self._stream = Cipher(ChaCha20(secrets.token_bytes(32), secrets.token_bytes(16)), mode=None).encryptor()

    def normal(self, count: int) -> NDArray[np.float64]:
        """So many independent numbers with mean 0 and standard deviation 1."""
        result = np.empty(count)
        for start in range(0, count, _PIECE):
            size = min(_PIECE, count - start)
            result[start : start + size] = sum(self._single(size) for _ in range(4)) / 2
        return result

    def _single(self, size: int) -> NDArray[np.float64]:
        from scipy.special import ndtri

        words = np.frombuffer(self._stream.update(bytes(8 * size)), "<u8") >> np.uint64(12)
        # The middle of one of 2^52 equal parts of (0, 1): exact in float64, and never 0 or 1.
        return ndtri((words.astype(np.float64) + 0.5) * 2.0**-52)
