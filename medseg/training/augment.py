"""nnU-Net's augmentation as one call on a batch, on whatever device the batch lies.

Knows nothing of how batches are made. What happens follows from (seed, iteration, rank) alone, and each step has random
numbers of its own, so that switching one off leaves the others as they were. The recipe and its order: nnU-Net v2
(Isensee et al. 2021).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medseg.planning.plan import ConfigurationPlan, TrainingPlan
from medseg.training import augmentation_intensity as intensity
from medseg.training.augmentation_cascade import add_mistakes, one_hot
from medseg.training.augmentation_spatial import mirror, rotate_and_scale, works_in_plane

_STREAM = 2
"""Keeps these random numbers apart from those that choose the patches."""


@torch.no_grad()
def augment_batch(
    images: Tensor,
    labels: Tensor,
    configuration: ConfigurationPlan,
    plan: TrainingPlan,
    iteration: int,
    rank: int = 0,
    structures_before: int = 0,
    outside: int = 0,
) -> tuple[Tensor, Tensor]:
    """Images (B, C, *initial) float32 and labels (B, *initial) -> (B, C, *patch) float32 and (B, *patch) int64.

    In a cascade the labels are (B, 2, *initial), the previous ones behind the true ones; they become
    ``structures_before`` further channels of the images, with some mistakes put into them. ``initial`` is at least the
    patch (``initial_patch_size``); where a patch reaches beyond it, labels are ``outside``. The arguments are not
    changed.
    """
    steps = plan.augmentation
    in_plane = works_in_plane(configuration)

    def random(step: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence(plan.seed, spawn_key=(_STREAM, iteration, rank, step)))
        )

    images, labels = rotate_and_scale(images, labels, configuration, steps, random(0), outside)
    if steps.noise:
        intensity.add_noise(images, random(1))
    if steps.blur:
        intensity.blur(images, random(2))
    if steps.brightness:
        intensity.change_brightness(images, random(3))
    if steps.contrast:
        intensity.change_contrast(images, random(4))
    if steps.low_resolution:
        intensity.lower_resolution(images, random(5), in_plane)
    if steps.gamma:
        intensity.change_gamma_inverted(images, random(6))
        intensity.change_gamma(images, random(7))
    if steps.mirror:
        mirror(images, labels, plan.mirror_axes, random(8))
    if not structures_before:
        return images, labels
    labels, previous = labels.unbind(1)
    if steps.mistakes:
        previous = add_mistakes(previous, structures_before, random(9))
    return torch.cat([images, one_hot(previous, structures_before)], dim=1), labels.contiguous()
