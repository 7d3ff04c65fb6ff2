"""Losses of shape: distances from borders, and centre lines.

Each takes Answers and gives a scalar, the mean over targets and patches. Distances are in voxels of the finest edge, so
that flat voxels count by their size. What is measured of labels (distances, skeletons) is found on the CPU by scipy and
scikit-image. MONAI's forms know neither spacing nor ignore labels; tests hold these against them where they agree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt, find_objects, generate_binary_structure
from torch import Tensor

from medseg.arrays import Mask, Spacing
from medseg.training.answers import Answers

_PEELINGS = 5
_TUBE = 2
_SMOOTH_LINES = 1.0
_SMOOTH = 1e-5


def boundary(answers: Answers) -> Tensor:
    """Probability times signed distance from the true border, negative inside (Kervadec et al. 2019).

    A target that is absent, or fills the patch, has no border and adds nothing.
    """
    losses = [p * _measured(mask, _signed, answers.spacing, p) for p, mask in answers.found_known()]
    return _mean_of_known(torch.stack(losses), answers)


def hausdorff(answers: Answers) -> Tensor:
    """Squared error times the squared distances from the true and the found border (Karimi and Salcudean 2019).

    What is found is where the probability is above 1/2; the gradient runs through the error alone, as in the paper.
    """
    losses = []
    for p, mask in answers.found_known():
        truth, found = (_measured(one, _unsigned, answers.spacing, p) for one in (mask, p.detach() > 0.5))
        losses.append((p - mask.to(p.dtype)) ** 2 * (truth**2 + found**2))
    return _mean_of_known(torch.stack(losses), answers)


def cldice(answers: Answers) -> Tensor:
    """1 - harmonic mean of the shares of both centre lines that lie inside the other tube (Shit et al. 2021)."""
    losses = []
    for p, mask in answers.found_known():
        inside = mask.to(p.dtype)
        line, true_line = soft_skeleton(p), soft_skeleton(inside)
        precision = _share_of(line, inside)
        recall = _share_of(true_line, p)
        losses.append(1 - 2 * precision * recall / (precision + recall))
    return torch.stack(losses).mean()


def skeleton_recall(answers: Answers) -> Tensor:
    """1 - share of the true centre lines, two voxels thick on each side, that is found (Kirchhoff et al. 2024).

    Mean over the targets that are there; 0 where none is.
    """
    shares = []
    for p, mask in answers.found_known():
        line = _measured(mask, _tube, answers.spacing, p)
        overlap, total = (part.flatten(1).sum(1) for part in (p * line, line))
        shares.append(((overlap + _SMOOTH) / (total + _SMOOTH))[total > 0])
    there = torch.cat(shares)
    return 1 - there.mean() if len(there) else 0.0 * answers.logits.sum()


def soft_skeleton(volumes: Tensor) -> Tensor:
    """Centre lines of (B, Z, Y, X), values 0 to 1: what an opening loses, peeling after peeling (Shit et al. 2021)."""
    volumes = volumes[:, None]
    skeleton = F.relu(volumes - _opened(volumes))
    for _ in range(_PEELINGS):
        volumes = _eroded(volumes)
        lost = F.relu(volumes - _opened(volumes))
        skeleton = skeleton + F.relu(lost - skeleton * lost)
    return skeleton[:, 0]


def _eroded(volumes: Tensor) -> Tensor:
    lowest = volumes
    for size, padding in (((3, 1, 1), (1, 0, 0)), ((1, 3, 1), (0, 1, 0)), ((1, 1, 3), (0, 0, 1))):
        lowest = torch.minimum(lowest, -F.max_pool3d(-volumes, size, 1, padding))
    return lowest


def _opened(volumes: Tensor) -> Tensor:
    return F.max_pool3d(_eroded(volumes), 3, 1, 1)


def _share_of(line: Tensor, inside: Tensor) -> Tensor:
    overlap, total = (part.flatten(1).sum(1) for part in (line * inside, line))
    return (overlap + _SMOOTH_LINES) / (total + _SMOOTH_LINES)


def _mean_of_known(values: Tensor, answers: Answers) -> Tensor:
    """Mean of (targets, B, Z, Y, X) over annotated voxels, which alone are not 0."""
    if answers.known is None:
        return values.mean()
    return values.sum() / (answers.known.sum().clamp(min=1) * len(values))


def _measured(mask: Tensor, measure: Callable[[Mask, Spacing], NDArray], spacing: Spacing, like: Tensor) -> Tensor:
    """A measurement of each patch's mask, (B, Z, Y, X), beside ``like``."""
    masks = mask.cpu().numpy()
    edge = min((size for size, length in zip(spacing, mask.shape[1:], strict=True) if length > 1), default=1.0)
    z, y, x = (size / edge for size in spacing)
    found = np.stack([measure(one, (z, y, x)) for one in masks])
    return torch.from_numpy(found).to(like)


def _signed(mask: Mask, units: Spacing) -> NDArray[np.float64]:
    """Distance from the border; the innermost and outermost voxels of both sides lie 0 and 1 away, as in the paper."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape)
    return _distance(~mask, units) - np.maximum(_distance(mask, units) - 1, 0)


def _unsigned(mask: Mask, units: Spacing) -> NDArray[np.float64]:
    """Distance to the next voxel of the other kind."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape)
    return _distance(~mask, units) + _distance(mask, units)


def _distance(mask: Mask, units: Spacing) -> NDArray[np.float64]:
    return distance_transform_edt(mask, sampling=units)  # pyright: ignore[reportReturnType] (depends on its arguments)


def _tube(mask: Mask, units: Spacing) -> NDArray[np.float64]:  # noqa: ARG001 (as every measure)
    """The skeleton, grown by two voxels, inside the mask."""
    from skimage.morphology import skeletonize

    tube = np.zeros(mask.shape)
    if not mask.any():
        return tube
    box = find_objects(mask.astype(np.uint8))[0]
    inside = mask[box]
    # In 3D with a border of background, as Lee's thinning wants it; slices are thinned as such.
    flat = np.squeeze(inside, 0) if len(inside) == 1 else inside
    thin = skeletonize(np.pad(flat, 1))[tuple(slice(1, -1) for _ in flat.shape)].reshape(inside.shape)
    element = generate_binary_structure(3, 1)
    if mask.shape[0] == 1:
        element[[0, 2]] = False
    tube[box] = binary_dilation(thin, element, iterations=_TUBE) & inside
    return tube
