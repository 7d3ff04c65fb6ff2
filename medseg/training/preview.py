"""Examples of every augmentation on one real patch, for people to look at.

Knows nothing of drawing. The pipeline is the one that trains: each step is switched on alone and run over iterations
until it has changed the patch often enough, so that what is seen is what happens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.planning.plan import AugmentationPlan, ConfigurationPlan, TrainingPlan
from medseg.preprocessing.store import PreparedCase, open_prepared
from medseg.training.augment import augment_batch
from medseg.training.augmentation_colour import colour_channels
from medseg.training.augmentation_spatial import crop_centre, initial_patch_size
from medseg.training.patches import cut

_MOST_ITERATIONS = 200
_BATCH = 8


@dataclass(frozen=True)
class Example:
    """What one step made of the patch."""

    step: str
    """Its switch in the Plan; 'patch' for the patch as it is, 'all of the plan' for all that is on."""
    is_on: bool
    images: tuple[NDArray[np.float32], ...]
    """(C, Z, Y, X) each."""
    labels: tuple[Labels, ...]
    milliseconds: float | None
    """For each patch that it changed; None where it was not measured."""


def preview_augmentations(
    prepared: Path,
    cases: Sequence[str],
    table: LabelTable,
    configuration: ConfigurationPlan,
    plan: TrainingPlan,
    channels: Sequence[str],
    count: int,
) -> list[Example]:
    """The patch itself, then ``count`` examples of each step, then of all steps that the Plan switches on.

    The patch lies around a structure of the first Case; steps that exchange parts take them from the second. Steps that
    need channels red, green and blue are left out where there are none, and those of cascades always.
    """
    widest = plan.augmentation.model_copy(update={"rotation": True, "scaling": True})
    size = initial_patch_size(configuration, widest)
    patches = [_patch_of(open_prepared(prepared, name), configuration, size, table.outside_index) for name in cases]
    order = [number % len(patches) for number in range(_BATCH)]
    images = torch.from_numpy(np.stack([patches[number][0] for number in order]))
    labels = torch.from_numpy(np.stack([patches[number][1] for number in order]).astype(np.int64))
    rgb = colour_channels(channels)
    still, marks = (crop_centre(array, configuration.patch_size) for array in (images, labels))
    shown = [Example("patch", True, (still[0].numpy(),), (marks[0].numpy(),), None)]
    left_out = {"mistakes"} | (set() if rgb else {"stain", "colour"})
    for step in (name for name in AugmentationPlan.model_fields if name not in left_out):
        found = _examples(images, labels, configuration, plan, _only(step), table, rgb, count)
        shown.append(Example(step, getattr(plan.augmentation, step), *found))
    every = _examples(images, labels, configuration, plan, plan.augmentation, table, rgb, count)
    return [*shown, Example("all of the plan", True, every[0], every[1], None)]


def _only(step: str | None) -> AugmentationPlan:
    return AugmentationPlan(**{name: name == step for name in AugmentationPlan.model_fields})


def _examples(
    images: torch.Tensor,
    labels: torch.Tensor,
    configuration: ConfigurationPlan,
    plan: TrainingPlan,
    switches: AugmentationPlan,
    table: LabelTable,
    rgb: Sequence[int] | None,
    count: int,
) -> tuple[tuple[NDArray[np.float32], ...], tuple[Labels, ...], float | None]:
    """Images and labels of up to ``count`` changed copies of the first patch, and the time for each changed patch."""
    training = plan.model_copy(update={"augmentation": switches})
    before = crop_centre(images, configuration.patch_size)
    nothing = plan.model_copy(update={"augmentation": _only(None)})
    found: list[tuple[NDArray[np.float32], Labels]] = []
    seconds, changed = 0.0, 0
    for iteration in range(_MOST_ITERATIONS):
        for sign, asked in ((-1, nothing), (1, training)):  # what cutting alone takes does not count
            started = time.perf_counter()
            new, marks = augment_batch(
                images, labels, configuration, asked, iteration, outside=table.outside_index, rgb=rgb
            )
            seconds += sign * (time.perf_counter() - started)
        for sample in range(len(new)):
            if torch.equal(new[sample], before[sample]):
                continue
            changed += 1
            if sample % 2 == 0:  # the others are of the second Case
                found.append((new[sample].numpy().copy(), marks[sample].numpy().copy()))
        if len(found) >= count:
            break
    kept = found[:count]
    each = 1000 * max(seconds, 0.0) / changed if changed else None
    return tuple(image for image, _ in kept), tuple(labels for _, labels in kept), each


def _patch_of(
    case: PreparedCase, configuration: ConfigurationPlan, size: tuple[int, int, int], outside: int
) -> tuple[NDArray[np.float32], Labels]:
    """(C, *size) and (*size) around the middle voxel of the smallest structure that the Case holds."""
    present = [places for places in case.locations if len(places)]
    centre = np.array(case.labels.shape) // 2
    if present:
        smallest = min(present, key=len)
        centre = smallest[len(smallest) // 2]
    start = []
    for c, patch, whole, n in zip(centre, configuration.patch_size, size, case.labels.shape, strict=True):
        corner = min(max(int(c) - patch // 2, 0), n - patch) if n > patch else (n - patch) // 2
        start.append(corner - (whole - patch) // 2)
    z, y, x = start
    return cut(case.image, (z, y, x), size), cut(case.labels, (z, y, x), size, outside)
