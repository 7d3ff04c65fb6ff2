"""The axis convention, and the array types named by it.

Arrays are ``(C, Z, Y, X)``, batches ``(B, C, Z, Y, X)``, Labels ``(Z, Y, X)``. A 2D image has ``Z = 1``; only the
inside of a network may drop that axis. Every triple (spacing, shape, patch size) is in ``(z, y, x)`` order; the only
exceptions end in ``_xyz`` and live in ``medseg/images/``. Spacing is in millimetres. World coordinates are RAS+.

Type and rank are checked by jaxtyping under pytest only; at run time these are plain annotations. The axis names start
with an underscore, which leaves their sizes free: a function may well return another grid than it was given.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Float64, Integer

Image = Float32[np.ndarray, "_C _Z _Y _X"]
"""Intensities, one channel per named input."""
Labels = Integer[np.ndarray, "_Z _Y _X"]
"""Structures as integers; uint8, or uint16 past 255 labels."""
Mask = Bool[np.ndarray, "_Z _Y _X"]
"""One structure."""
Affine = Float64[np.ndarray, "4 4"]
"""From (z, y, x, 1) to world millimetres, RAS+."""

Triple = tuple[int, int, int]
"""Whole numbers per axis, (z, y, x)."""
Spacing = tuple[float, float, float]
"""Millimetres per axis, (z, y, x)."""


def label_dtype(largest: int) -> type[np.unsignedinteger]:
    """The smallest unsigned type that holds the largest label value (not the number of labels)."""
    return np.uint8 if largest <= 255 else np.uint16 if largest <= 65535 else np.uint32
