"""Mistakes put into the previous configuration's labels, so that a cascade learns not to trust them blindly.

Knows nothing of images. Rules: nnU-Net v2's (batchgeneratorsv2): with p 0.4 each structure is, with p 0.5, dilated,
eroded, closed or opened by a ball of radius 1 to 8; with p 0.2 a random component of each structure is dropped, if it
is smaller than 15 % of the patch.
"""

from __future__ import annotations

from collections.abc import Callable

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

from medseg.arrays import Mask

_P_MORPHOLOGY, _P_EACH = 0.4, 0.5
_P_DROP = 0.2
_LARGEST_RADIUS = 8
_LARGEST_SHARE = 0.15


def add_mistakes(previous: Tensor, structures: int, random: np.random.Generator) -> Tensor:
    """Label indices (B, Z, Y, X) with some structures grown, shrunk or incomplete; a new tensor on the same device."""
    changed = previous.cpu().numpy().copy()
    for labels in changed:
        if random.random() < _P_MORPHOLOGY:
            _morph(labels, structures, random)
        if random.random() < _P_DROP:
            _drop(labels, structures, random)
    return torch.from_numpy(changed).to(previous.device)


def one_hot(previous: Tensor, structures: int) -> Tensor:
    """Label indices (B, Z, Y, X) -> (B, structures, Z, Y, X) float32, 1 where a structure lies."""
    indices = torch.arange(1, structures + 1, device=previous.device)
    return (previous[:, None] == indices[:, None, None, None]).float()


def _morph(labels: NDArray[np.integer], structures: int, random: np.random.Generator) -> None:
    for index in random.permutation(structures) + 1:
        operation = OPERATIONS[random.integers(len(OPERATIONS))]
        radius = int(random.integers(1, _LARGEST_RADIUS + 1))
        if random.random() >= _P_EACH:
            continue
        box = box_around(labels == index, radius + 1)
        if box is None:
            continue
        near = labels[box]
        before = near == index
        after = operation(before, radius)
        near[before & ~after] = 0
        near[after & ~before] = index


def box_around(mask: Mask, margin: int) -> tuple[slice, ...] | None:
    """The mask's box with a margin inside the array: beyond it no ball reaches; None where the mask is empty."""
    box = find_objects(mask.astype(np.uint8))
    if not box:
        return None
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box[0])


def _drop(labels: NDArray[np.integer], structures: int, random: np.random.Generator) -> None:
    for index in range(1, structures + 1):
        chosen = random.random()
        components, count = cc3d.connected_components(labels == index, connectivity=26, return_N=True)
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        small = np.flatnonzero(sizes < _LARGEST_SHARE * labels.size) + 1
        if len(small):
            labels[components == small[int(chosen * len(small))]] = 0


def _dilated(mask: Mask, radius: int) -> Mask:
    return _distance(~mask) <= radius if mask.any() else mask


def _eroded(mask: Mask, radius: int) -> Mask:
    return _distance(mask) > radius if not mask.all() else mask


def _distance(mask: Mask) -> NDArray[np.float64]:
    """From each voxel of the mask to the next one outside, in voxels; 0 outside."""
    return distance_transform_edt(mask)  # pyright: ignore[reportReturnType] (its type depends on its arguments)


def _closed(mask: Mask, radius: int) -> Mask:
    return _eroded(_dilated(mask, radius), radius)


def _opened(mask: Mask, radius: int) -> Mask:
    return _dilated(_eroded(mask, radius), radius)


OPERATIONS: tuple[Callable[[Mask, int], Mask], ...] = (_dilated, _eroded, _closed, _opened)
