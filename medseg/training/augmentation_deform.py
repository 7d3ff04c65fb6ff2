"""Elastic deformation, and boxes exchanged between patches; off unless the Plan says so.

Knows nothing of intensities. Elastic: a smooth random displacement (Simard et al. 2003), drawn on a coarse grid as
U-Net does (Ronneberger et al. 2015). CutMix: Yun et al. 2019, for labels of voxels. Probabilities and ranges are our
own choice, mild ones. Images are sampled linearly, labels by nearest.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from medseg.training.augmentation_intensity import chosen_samples, index_of

_P_ELASTIC, _BEND = 0.2, (0.01, 0.035)
_POINTS = 5
"""Of the coarse grid on each axis that is not thin."""
_P_CUTMIX, _BOX = 0.2, (0.25, 0.6)


def deform(images: Tensor, labels: Tensor, in_plane: bool, random: np.random.Generator) -> None:
    """Bend samples in place by 1 to 3.5 % of each edge (standard deviation); p 0.2. ``in_plane`` leaves z alone.

    Images (B, C, Z, Y, X), labels (B, Z, Y, X) or (B, L, Z, Y, X). The border voxels go on where the patch ends.
    """
    chosen = chosen_samples(len(images), _P_ELASTIC, random)
    axes = 2 if in_plane else 3
    points = (_POINTS,) * 3 if not in_plane else (1, _POINTS, _POINTS)
    bends = random.uniform(*_BEND, (len(chosen), 1, 1, 1, 1))
    coarse = bends * np.clip(random.standard_normal((len(chosen), axes, *points)), -2, 2)
    if len(chosen) == 0:
        return
    space = images.shape[2:]
    # affine_grid and grid_sample count each axis from -1 to 1, and x first.
    shifts = F.interpolate(2 * images.new_tensor(coarse), size=space, mode="trilinear", align_corners=True)
    shifts = shifts.flip(1).movedim(1, -1)
    if in_plane:
        shifts = torch.cat([shifts, torch.zeros_like(shifts[..., :1])], dim=-1)
    still = torch.eye(3, 4, dtype=images.dtype, device=images.device).expand(len(chosen), 3, 4)
    grid = F.affine_grid(still, [len(chosen), 1, *space], align_corners=False) + shifts
    index = index_of(chosen, images)
    images[index] = F.grid_sample(images[index], grid, "bilinear", "border", align_corners=False)
    several = labels[index].reshape(len(chosen), -1, *space)
    bent = F.grid_sample(several.to(images.dtype), grid, "nearest", "border", align_corners=False)
    labels[index] = bent.round().to(labels.dtype).reshape(labels[index].shape)


def exchange_boxes(images: Tensor, labels: Tensor, random: np.random.Generator) -> None:
    """A box of another patch of the batch, from the same place, with its labels; in place, p 0.2 for each sample.

    Its edges are 25 to 60 % of the patch's. Structures stay on their side of the patch.
    """
    batch, space = len(images), images.shape[2:]
    chosen = chosen_samples(batch, _P_CUTMIX, random)
    shares = random.uniform(*_BOX, (len(chosen), 3))
    places = random.random((len(chosen), 3))
    steps = random.integers(1, max(batch, 2), len(chosen))
    if batch < 2 or len(chosen) == 0:
        return
    before = images.clone(), labels.clone()
    for sample, share, place, step in zip(chosen, shares, places, steps, strict=True):
        box = []
        for n, s, p in zip(space, share, place, strict=True):
            length = max(1, round(float(s) * n))
            start = round(float(p) * (n - length))
            box.append(slice(start, start + length))
        other = (sample + step) % batch
        images[(sample, ..., *box)] = before[0][(other, ..., *box)]
        labels[(sample, ..., *box)] = before[1][(other, ..., *box)]
