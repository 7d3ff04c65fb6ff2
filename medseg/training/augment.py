"""nnU-Net's augmentation, and more where the Plan asks for it, as one call on a batch, on whatever device it lies.

Knows nothing of how batches are made. What happens follows from (seed, iteration, rank) alone, and each step has random
numbers of its own, so that switching one off leaves the others as they were. The recipe and its order: nnU-Net v2
(Isensee et al. 2021); what scanners and stains do comes before it, boxes are exchanged at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.planning.plan import ConfigurationPlan, TrainingPlan
from medseg.training import augmentation_intensity as intensity
from medseg.training import augmentation_scanner as scanner
from medseg.training.augmentation_cascade import add_mistakes, one_hot
from medseg.training.augmentation_colour import change_colour, change_stain
from medseg.training.augmentation_deform import deform, exchange_boxes
from medseg.training.augmentation_spatial import mirror, rotate_and_scale, works_in_plane

_STREAM = 2
"""Keeps these random numbers apart from those that choose the patches."""
_CUT, _MISTAKES = 0, 9


@dataclass(frozen=True)
class _Batch:
    """What a step changes in place, and what it has to know."""

    images: Tensor
    labels: Tensor
    in_plane: bool
    mirror_axes: Sequence[int]
    rgb: Sequence[int] | None


_Step = Callable[[_Batch, np.random.Generator], None]


def _in_colour(change: Callable[[Tensor, Sequence[int], np.random.Generator], None]) -> _Step:
    """A step that images without colour do not have."""
    return lambda batch, random: None if batch.rgb is None else change(batch.images, batch.rgb, random)


def _of_images(change: Callable[[Tensor, np.random.Generator], None]) -> _Step:
    return lambda batch, random: change(batch.images, random)


_STEPS: tuple[tuple[str, int, _Step], ...] = (
    ("elastic", 10, lambda batch, random: deform(batch.images, batch.labels, batch.in_plane, random)),
    ("bias_field", 11, _of_images(scanner.add_bias_field)),
    ("motion", 12, _of_images(scanner.blur_by_motion)),
    ("ghosting", 13, _of_images(scanner.add_ghosts)),
    ("stain", 14, _in_colour(change_stain)),
    ("colour", 15, _in_colour(change_colour)),
    ("noise", 1, _of_images(intensity.add_noise)),
    ("blur", 2, _of_images(intensity.blur)),
    ("brightness", 3, _of_images(intensity.change_brightness)),
    ("contrast", 4, _of_images(intensity.change_contrast)),
    ("low_resolution", 5, lambda batch, random: intensity.lower_resolution(batch.images, random, batch.in_plane)),
    ("gamma", 6, _of_images(intensity.change_gamma_inverted)),
    ("gamma", 7, _of_images(intensity.change_gamma)),
    ("mirror", 8, lambda batch, random: mirror(batch.images, batch.labels, batch.mirror_axes, random)),
    ("cutmix", 16, lambda batch, random: exchange_boxes(batch.images, batch.labels, random)),
)
"""In their order: the switch in the Plan, the number of the random stream, what is done."""


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
    rgb: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images (B, C, *initial) float32 and labels (B, *initial) -> (B, C, *patch) float32 and (B, *patch) int64.

    In a cascade the labels are (B, 2, *initial), the previous ones behind the true ones; they become
    ``structures_before`` further channels of the images, with some mistakes put into them. ``initial`` is at least the
    patch (``initial_patch_size``); where a patch reaches beyond it, labels are ``outside``. ``rgb`` are the places of
    the channels red, green and blue, where there are such. The arguments are not changed.
    """
    switches = plan.augmentation

    def random(step: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence(plan.seed, spawn_key=(_STREAM, iteration, rank, step)))
        )

    images, labels = rotate_and_scale(images, labels, configuration, switches, random(_CUT), outside)
    batch = _Batch(images, labels, works_in_plane(configuration), plan.mirror_axes, rgb)
    for switch, number, change in _STEPS:
        if getattr(switches, switch):
            change(batch, random(number))
    if not structures_before:
        return images, labels
    labels, previous = labels.unbind(1)
    if switches.mistakes:
        previous = add_mistakes(previous, structures_before, random(_MISTAKES))
    return torch.cat([images, one_hot(previous, structures_before)], dim=1), labels.contiguous()
