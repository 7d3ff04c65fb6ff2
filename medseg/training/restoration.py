"""Learning without labels: blocks of a patch are hidden, and the network restores the image there.

Knows nothing of files or commands. Papers: He et al. 2022 (masked autoencoders), Wald et al. 2025 (for U-Nets): hidden
voxels are 0, the mean after normalisation, and the loss is the squared error of these voxels alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.planning.pretraining import Pretraining
from medseg.preprocessing.store import PreparedCase
from medseg.training.patches import cut

_STREAM = 5
"""Keeps these random numbers apart from those that choose and augment patches."""


def hide(
    images: Tensor, labels: Tensor, plan: Pretraining, seed: int, iteration: int, rank: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (B, C, *patch) with hidden blocks, and what is to be restored, (B, C + 1, *patch).

    The last channel of that is 1 where a voxel was hidden and lies inside its image (label index 0), else 0. Which
    blocks are hidden follows from (seed, iteration, rank) alone; of every patch it is the same number.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM, iteration, rank))
    random = np.random.Generator(np.random.Philox(sequence))
    drawn = np.stack([_hidden(tuple(images.shape[2:]), plan, random) for _ in range(len(images))])
    hidden = torch.from_numpy(drawn).to(images.device)[:, None]
    counted = (hidden & (labels == 0)[:, None]).to(images.dtype)
    return images.masked_fill(hidden, 0), torch.cat((images, counted), 1)


def _hidden(shape: tuple[int, ...], plan: Pretraining, random: np.random.Generator) -> NDArray[np.bool_]:
    """Where a patch of this shape (z, y, x) is hidden; blocks at the far borders may be cut off."""
    grid = [math.ceil(size / block) for size, block in zip(shape, plan.block, strict=True)]
    count = math.prod(grid)
    chosen = random.permutation(count) < min(max(round(plan.hidden * count), 1), count - 1)
    mask = chosen.reshape(grid)
    for axis, block in enumerate(plan.block):
        mask = mask.repeat(block, axis)
    return mask[tuple(slice(size) for size in shape)]


class RestorationLoss(nn.Module):
    """Mean squared error of hidden voxels; of several outputs only the finest is asked."""

    def forward(self, outputs: Tensor | list[Tensor], wanted: Tensor) -> Tensor:
        """Outputs (B, C, *patch), finest first, and what ``hide`` gives, (B, C + 1, *patch) -> a number."""
        finest = outputs[0] if isinstance(outputs, list | tuple) else outputs
        images, counted = wanted[:, :-1], wanted[:, -1:]
        errors = (finest.float() - images).square() * counted
        return errors.sum() / (counted.sum() * images.shape[1]).clamp(min=1)


@dataclass(frozen=True)
class Restored:
    """One patch as it is, as the network saw it, and with what the network put into the hidden blocks."""

    case: str
    image: NDArray[np.float32]
    """(C, Z, Y, X), like the other two."""
    seen: NDArray[np.float32]
    """Hidden voxels hold the smallest value of the patch, to be seen as such."""
    restored: NDArray[np.float32]
    share: float
    """Of the variance of hidden voxels about the mean of the visible ones; 1 is perfect, 0 what that mean gives."""


@torch.no_grad()
def restore_patches(
    network: nn.Module, cases: Sequence[PreparedCase], patch: tuple[int, int, int], plan: Pretraining, seed: int
) -> list[Restored]:
    """The middle patch of every Case restored; the hidden blocks follow from the seed and the Case's place."""
    device = next(network.parameters()).device
    network.eval()
    found = []
    for place, case in enumerate(cases):
        room = [size - length for size, length in zip(case.labels.shape, patch, strict=True)]
        corner = (room[0] // 2, room[1] // 2, room[2] // 2)
        image = torch.from_numpy(cut(case.image, corner, patch))[None].to(device)
        inside = torch.from_numpy(cut(case.labels, corner, patch, 1).astype(np.int64))[None].to(device)
        seen, wanted = hide(image, inside, plan, seed, place)
        restored = network(seen).float()
        counted = wanted[:, -1:].bool()
        visible = ~counted & (inside == 0)[:, None]
        axes = (2, 3, 4)
        mean = (image * visible).sum(axes, keepdim=True) / visible.sum(axes, keepdim=True).clamp(min=1)
        left, all_of_it = (((x - image).square() * counted).sum().item() for x in (restored, mean))
        blank = torch.where(counted, image.amin(), image)
        whole = torch.where(counted, restored, image)
        arrays = (array[0].cpu().numpy() for array in (image, blank, whole))
        found.append(Restored(case.name, *arrays, share=1 - left / max(all_of_it, 1e-12)))
    return found
