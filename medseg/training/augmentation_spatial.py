"""Rotation, scaling and mirroring of a batch, and how much larger than the patch it must be read for them.

Knows nothing of intensities. Rules: nnU-Net v2's recipe (Isensee et al. 2021; batchgeneratorsv2). Images are sampled
linearly, labels by nearest (nnU-Net samples each label linearly and takes the one above 1/2; the difference is less
than half a voxel at a border). Outside the image is 0; labels may say there that nobody annotated it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from medseg.arrays import Triple
from medseg.planning.plan import AugmentationPlan, ConfigurationPlan

_P_ROTATION = 0.2
_P_SCALING = 0.2
_P_MIRROR = 0.5
_SCALES = (0.7, 1.4)
_SMALLEST_PLANNED_SCALE = 0.85
_ANISOTROPIC = 3
_ELONGATED = 1.5


def works_in_plane(configuration: ConfigurationPlan) -> bool:
    """Whether z is left alone: 2D, or a 3D patch more than 3 times longer than it is thick ("dummy 2D")."""
    patch = configuration.patch_size
    return configuration.dimensions == 2 or max(patch) / patch[0] > _ANISOTROPIC


def rotation_limit(configuration: ConfigurationPlan) -> float:
    """Largest rotation in radians: 30 degrees in 3D, any in the plane, but 15 degrees for an elongated 2D patch."""
    if not works_in_plane(configuration):
        return math.radians(30)
    plane = configuration.patch_size[1:]
    if configuration.dimensions == 2 and max(plane) / min(plane) > _ELONGATED:
        return math.radians(15)
    return math.pi


def initial_patch_size(configuration: ConfigurationPlan, plan: AugmentationPlan) -> Triple:
    """The size (z, y, x) to read so that the corners of a rotated or scaled patch are mostly filled.

    nnU-Net's get_patch_size: the patch's corner turned by the largest angle about each axis, divided by 0.85. Just the
    patch when neither is switched on.
    """
    patch = configuration.patch_size
    if not (plan.rotation or plan.scaling):
        return patch
    z, y, x = patch
    angle = min(rotation_limit(configuration), math.pi / 2) if plan.rotation else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    grown = [
        max(z, z * cos + y * sin, abs(z * cos - x * sin)),
        max(y, y * cos + x * sin, abs(y * cos - z * sin)),
        max(x, x * cos + z * sin, abs(x * cos - y * sin)),
    ]
    if works_in_plane(configuration):
        grown = [z, max(y, y * cos + x * sin), max(x, abs(x * cos - y * sin))]
    # A hair is added because 1 / cos(90 degrees) is not exactly 0.
    sizes = [int(size / _SMALLEST_PLANNED_SCALE + 1e-6) for size in grown]
    return (z if works_in_plane(configuration) else sizes[0], sizes[1], sizes[2])


def crop_centre(array: Tensor, patch: Triple) -> Tensor:
    """The middle (..., *patch) of (..., Z, Y, X), as a view."""
    for axis, size in zip((-3, -2, -1), patch, strict=True):
        array = array.narrow(axis, (array.shape[axis] - size) // 2, size)
    return array


def rotate_and_scale(
    images: Tensor,
    labels: Tensor,
    configuration: ConfigurationPlan,
    plan: AugmentationPlan,
    random: np.random.Generator,
    outside: int = 0,
) -> tuple[Tensor, Tensor]:
    """Cut the patch out of each sample, of some of them rotated (p 0.2) or scaled (p 0.2, 0.7 to 1.4, all axes alike).

    Images (B, C, *initial), labels (B, *initial) -> new tensors (B, C, *patch) float32 and (B, *patch) int64. Samples
    that are neither rotated nor scaled are only cropped. Several labels may lie behind one another, (B, L, *initial);
    outside of the sample the first are ``outside`` and the others 0, as images are.
    """
    patch, in_plane = configuration.patch_size, works_in_plane(configuration)
    batch = len(images)
    limit = rotation_limit(configuration)
    rotated = (random.random(batch) < _P_ROTATION) & plan.rotation
    angles = random.uniform(-limit, limit, (batch, 3)) * rotated[:, None]
    scaled = (random.random(batch) < _P_SCALING) & plan.scaling
    scales = np.where(scaled, random.uniform(*_SCALES, batch), 1.0)
    new_images = crop_centre(images, patch).clone(memory_format=torch.contiguous_format)
    new_labels = crop_centre(labels, patch).long().clone(memory_format=torch.contiguous_format)
    moved = np.flatnonzero(rotated | scaled)
    if len(moved):
        matrices = np.stack([scales[sample] * rotation(angles[sample], in_plane) for sample in moved])
        index = torch.as_tensor(moved).to(images.device)
        new_images[index] = resample(images[index], matrices, patch, "bilinear")
        several = labels[index].reshape(len(moved), -1, *labels.shape[-3:]).long()
        several[:, 0] -= outside  # sampling gives 0 outside
        sampled = resample(several.float(), matrices, patch, "nearest").long()
        sampled[:, 0] += outside
        new_labels[index] = sampled.reshape(new_labels[index].shape)
    return new_images, new_labels


def rotation(angles: Sequence[float] | np.ndarray, in_plane: bool) -> np.ndarray:
    """Rotation matrix for (z, y, x), or for (y, x) in the plane, by angles in radians about z, y and x."""
    (cz, cy, cx), (sz, sy, sx) = np.cos(angles), np.sin(angles)
    about_z = np.array([[cz, -sz], [sz, cz]])
    if in_plane:
        return about_z
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[cx, -sx, 0], [sx, cx, 0], [0, 0, 1]])
    full_z = np.eye(3)
    full_z[1:, 1:] = about_z
    return full_z @ about_y @ about_x


def resample(batch: Tensor, matrices: np.ndarray, patch: Triple, mode: str) -> Tensor:
    """Sample (B, C, Z, Y, X) at centre + matrix @ (voxel - patch centre) -> (B, C, *patch); 0 outside.

    ``matrices`` is (B, 3, 3), or (B, 2, 2) to work on each slice; Z is then the patch's already.
    """
    dimensions = matrices.shape[-1]
    size, space = patch[-dimensions:], batch.shape[-dimensions:]
    # affine_grid and grid_sample count each axis from -1 to 1, and x first.
    theta = (matrices * np.array(size)[None, None, :] / np.array(space)[None, :, None])[:, ::-1, ::-1]
    theta = np.concatenate([theta, np.zeros((len(matrices), dimensions, 1))], axis=2)
    on_device = torch.as_tensor(theta, dtype=torch.float32).to(batch.device)
    grid = F.affine_grid(on_device, [len(matrices), 1, *size], align_corners=False)
    # The slices of an in-plane transform go through as channels.
    folded = batch.reshape(len(batch), -1, *space)
    sampled = F.grid_sample(folded, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return sampled.reshape(*batch.shape[:2], *patch)


def mirror(images: Tensor, labels: Tensor, axes: Sequence[int], random: np.random.Generator) -> None:
    """Flip samples in place, each with probability 1/2 on each of the axes (0, 1, 2 for z, y, x)."""
    flips = random.random((len(images), 3)) < _P_MIRROR
    for axis in axes:
        index = torch.as_tensor(np.flatnonzero(flips[:, axis])).to(images.device)
        if images.shape[axis + 2] > 1 and len(index):
            images[index] = images[index].flip(axis - 3)
            labels[index] = labels[index].flip(axis - 3)
