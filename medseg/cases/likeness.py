"""Which Cases look like the same examination although their files differ: saved anew, turned, rescaled or resampled.

Knows no files. A thumbnail of 12 x 12 x 12 means over the field of view is all that is kept of a Case; two are compared
in all 48 ways in which axes can be swapped and flipped. Linear changes of intensity do not matter.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Image

_EDGE = 12
ALIKE = 0.985
"""Least correlation of two thumbnails of one examination. Measured: copies of 40 hippocampus crops that were resampled
by 0.5 to 2, rescaled, turned or given 20 % noise correlate by 0.993 or more; different crops of 200 by 0.876 or less
(the most alike are a patient's left and right), different phantoms of one scanner by 0.978 or less."""
_SCALE = 24.0
"""Steps of the stored thumbnail per standard deviation."""
_BLOCK = 256


def thumbnail_of(image: Image) -> str:
    """Mean intensity of ``(C, Z, Y, X)`` in each of 12 x 12 x 12 equal parts, standardised, as text (2.3 kB).

    Empty for an image without contrast, which is like no other.
    """
    small = np.mean(image, axis=0, dtype=np.float32)
    for axis, size in enumerate(small.shape):
        small = np.moveaxis(np.tensordot(_shares(size), small, axes=(1, axis)), 0, axis)
    small = small - small.mean()
    deviation = float(small.std())
    if deviation <= 1e-6 * float(np.abs(image).max()):
        return ""
    steps = np.clip(np.round(small / deviation * _SCALE), -127, 127).astype(np.int8)
    return base64.b64encode(steps.tobytes()).decode()


def find_alike(thumbnails: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of places in the list whose thumbnails are one examination's, in ascending order."""
    places = [place for place, thumbnail in enumerate(thumbnails) if thumbnail]
    if len(places) < 2:
        return []
    stack = np.stack([_standardised(thumbnails[place]) for place in places])
    flat = stack.reshape(len(stack), -1)
    alike = np.zeros((len(stack), len(stack)), bool)
    for turned in _turns(stack):
        other = turned.reshape(len(stack), -1)
        for start in range(0, len(stack), _BLOCK):
            rows = slice(start, start + _BLOCK)
            alike[rows] |= flat[rows] @ other.T >= ALIKE
    return [(places[a], places[b]) for a, b in np.argwhere(np.triu(alike, 1)).tolist()]


def join_groups(groups: dict[str, str], pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The groups of names with those joined that a pair connects; a joined group has the first of their keys."""
    joined = dict(groups)
    for first, second in pairs:
        keep, drop = sorted((joined[first], joined[second]))
        joined = {name: keep if key == drop else key for name, key in joined.items()}
    return joined


def _standardised(thumbnail: str) -> NDArray[np.float32]:
    """``(12, 12, 12)`` of length 1, so that a product of two is their correlation."""
    steps = np.frombuffer(base64.b64decode(thumbnail), np.int8).astype(np.float32)
    steps -= steps.mean()
    return (steps / np.linalg.norm(steps)).reshape(_EDGE, _EDGE, _EDGE)


def _shares(size: int) -> NDArray[np.float32]:
    """``(12, size)``: the share that each of ``size`` voxels has in each of 12 equal parts of an axis."""
    edges = np.linspace(0, size, _EDGE + 1)
    voxels = np.arange(size)
    lower = np.maximum(edges[:-1, None], voxels)
    upper = np.minimum(edges[1:, None], voxels + 1)
    return (np.clip(upper - lower, 0, None) * _EDGE / size).astype(np.float32)


def _turns(stack: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Views of ``(N, Z, Y, X)`` in all 48 orders and directions of the axes."""
    for order in permutations(range(3)):
        for z, y, x in product((1, -1), repeat=3):
            yield stack.transpose(0, *(axis + 1 for axis in order))[:, ::z, ::y, ::x]
