"""The area of the piece of surface that each neighbourhood of voxels holds, for a given spacing.

Knows nothing of images. The surface of a mask is cut where eight voxels meet (four pixels in 2D): the 2x2x2 pattern of
inside and outside is a number from 0 to 255, and marching cubes says which triangles such a corner holds. The normals
are those of DeepMind's surface-distance (``lookup_tables.py``, Copyright 2018 Google Inc., Apache-2.0), written
shorter: only the sizes of their components matter for an area, a pattern and its opposite have the same surface, and
27 different sets of triangles remain. Keeping to that table is what makes our HD95 and NSD comparable with published
ones (Nikolov et al. 2018, arXiv 1809.04430).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Triangles by letter; each is |normal| along z, y, x in eighths of a voxel face ("111 222": two triangles).
_TRIANGLES = {
    "a": "",
    "b": "111",
    "c": "004 004",
    "d": "022 022",
    "e": "040 040",
    "f": "111 111",
    "g": "202 202",
    "h": "220 220",
    "i": "400 400",
    "j": "004 111 222",
    "k": "022 022 111",
    "l": "040 111 222",
    "m": "111 111 111",
    "n": "111 202 202",
    "o": "111 220 220",
    "p": "111 222 400",
    "q": "004 111 111 222",
    "r": "022 022 022 022",
    "s": "022 111 202 333",
    "t": "022 111 220 333",
    "u": "040 111 111 222",
    "v": "111 111 111 111",
    "w": "111 111 222 222",
    "x": "111 111 222 400",
    "y": "111 202 220 333",
    "z": "202 202 202 202",
    "A": "220 220 220 220",
}
# The letter of the patterns 0 to 127; pattern 255 - i has the same as i.
_PATTERNS = (
    "abbhbgfpbfgphppibdflfjmwfknsotxpbfdlfnksfmjwoxtphlleoyulouylAooh"
    "bffodjktfmnxlwspgjnyjcqjnqznyjngfmkukqrkmvqmumkfpwsltjkdxmnfoffb"
)


@lru_cache(maxsize=64)
def element_areas(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Area in mm² of each of the 256 patterns for a spacing (z, y, x), or length in mm of the 16 for (y, x).

    A pattern's bits, lowest first, are the voxel itself, the one before it along x, then the same two one step back
    along y, then the same four one step back along z (see ``surfaces.neighbour_codes``).
    """
    if len(spacing) == 2:
        return _contour_lengths(*spacing)
    z, y, x = spacing
    face = np.array([y * x, z * x, z * y]) / 8
    area = {
        letter: sum(float(np.linalg.norm(np.array([int(d) for d in normal]) * face)) for normal in text.split())
        for letter, text in _TRIANGLES.items()
    }
    return np.array([area[letter] for letter in _PATTERNS + _PATTERNS[::-1]])


def _contour_lengths(y: float, x: float) -> NDArray[np.float64]:
    diagonal = 0.5 * float(np.hypot(y, x))
    lengths = np.full(16, diagonal)
    lengths[[0, 15]] = 0
    lengths[[0b0011, 0b1100]] = x
    lengths[[0b0101, 0b1010]] = y
    lengths[[0b0110, 0b1001]] = 2 * diagonal
    return lengths
