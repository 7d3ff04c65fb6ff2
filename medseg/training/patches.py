"""Random training patches from prepared Cases: which follows from (seed, iteration, sample) alone, or is a hard one.

Knows nothing of augmentation beyond how much larger than the patch it wants its input. A run can therefore be resumed
at any iteration and gives the same batches with any number of workers or ranks. Rules: nnU-Net's data loader (Isensee
et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medseg.arrays import Triple
from medseg.errors import PlanError
from medseg.preprocessing.store import PreparedCase
from medseg.training.augmentation_spatial import initial_patch_size
from medseg.training.copy_paste import CopyPaste
from medseg.training.mining import Origin
from medseg.training.open_cases import OpenCases
from medseg.training.recipe import Recipe
from medseg.training.sampling import Sampler

_STREAM, _HARD_STREAM, _PASTE_STREAM = 0, 3, 4
"""Keep these random numbers apart from one another and from those of augmentation."""


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Batches by iteration: images (B, C, *initial) float32, labels (B, *initial) uint8 (int32 past 255 labels).

    In a cascade the labels are (B, 2, *initial): the true ones, then those of the previous configuration.

    Cases are drawn uniformly with replacement. The last ``B - round(B (1 - foreground_share))`` patches of the whole
    batch are centred on a random voxel of a target, the target uniform among those in the Case; the others lie anywhere
    in the Case or, where the labels have an ignore value, around a random annotated voxel. A patch stays inside the
    Case as far as it fits; the margin read for rotation, and a Case smaller than the patch, are filled with 0. Labels
    are background there, or ignored where that is possible (nnU-Net: always background). Rank r of n takes its slice of
    the batch. The Plan's sampling changes which Cases and targets are drawn, and may copy components between Cases.
    Raises PlanError when there is no Case, or less than one patch for each rank.
    """

    def __init__(
        self,
        folder: Path,
        cases: Sequence[str],
        recipe: Recipe,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        configuration, training = recipe.configuration, recipe.training
        if not cases:
            raise PlanError("There is no case to take patches from. Add cases, or choose fewer folds.")
        if configuration.batch_size < world:
            raise PlanError(
                f"A batch of {configuration.batch_size} can not be shared by {world} processes. "
                f"Set batch_size to {world} or more, or use fewer devices."
            )
        self.cases = tuple(cases)
        self.patch = configuration.patch_size
        self.initial = initial_patch_size(configuration, training.augmentation)
        self.outside = recipe.labels.outside_index
        self.seed, self.plan = training.seed, training.sampling
        self.open = OpenCases(folder, recipe.labels, recipe.is_cascade)
        self.sampler = Sampler(folder, cases, recipe.labels, training.sampling)
        self.copy_paste = CopyPaste(training.sampling, recipe.labels, self.sampler, self.open, self.patch, self.initial)
        self.hard: tuple[Origin, ...] = ()
        """Patches to be seen again; set by whoever trains, before the batches of a round are read."""
        batch = configuration.batch_size
        self.first_forced = round(batch * (1 - training.foreground_share))
        self.samples = range(rank * batch // world, (rank + 1) * batch // world)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The batch of one iteration."""
        pairs = [self._sample(index, sample) for sample in self.samples]
        images = np.stack([image for image, _ in pairs])
        labels = np.stack([label for _, label in pairs])
        if labels.dtype != np.uint8:
            labels = labels.astype(np.int32)  # torch does little with uint16
        return torch.from_numpy(images), torch.from_numpy(labels)

    def cases_of(self, iteration: int) -> str:
        """The names of the Cases in one iteration's batch, for messages."""
        return ", ".join(self._place(*self.origin(iteration, sample))[0] for sample in self.samples)

    def origin(self, iteration: int, sample: int) -> Origin:
        """From which (iteration, sample) a patch's place follows: its own, or that of a hard patch seen again."""
        if self.hard:
            random = self._stream(_HARD_STREAM, iteration, sample)
            if random.random() < self.plan.hard_patches:
                return self.hard[random.integers(len(self.hard))]
        return iteration, sample

    def _stream(self, stream: int, iteration: int, sample: int) -> np.random.Generator:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(stream, iteration, sample))
        return np.random.Generator(np.random.Philox(sequence))

    def _place(self, iteration: int, sample: int) -> tuple[str, Triple]:
        """The Case and the lowest voxel (z, y, x) of a patch."""
        random, forced = self._stream(_STREAM, iteration, sample), sample >= self.first_forced
        name, target = self.sampler.draw_case(random, forced)
        return name, self._corner(self.open.case(name), forced, target, random)

    def _sample(self, iteration: int, sample: int) -> tuple[NDArray[np.float32], NDArray[np.unsignedinteger]]:
        name, corner = self._place(*self.origin(iteration, sample))
        case = self.open.case(name)
        margin = tuple((i - p) // 2 for i, p in zip(self.initial, self.patch, strict=True))
        start = (corner[0] - margin[0], corner[1] - margin[1], corner[2] - margin[2])
        image, labels = cut(case.image, start, self.initial), cut(case.labels, start, self.initial, self.outside)
        previous = None if case.previous is None else cut(case.previous, start, self.initial)
        if self.plan.copy_paste:
            self.copy_paste(image, labels, previous, self._stream(_PASTE_STREAM, iteration, sample))
        return image, labels if previous is None else np.stack([labels, previous])

    def _corner(self, case: PreparedCase, forced: bool, target: int | None, random: np.random.Generator) -> Triple:
        """The lowest voxel (z, y, x) of the patch; a patch larger than the Case is centred on it."""
        voxel = self._centre(case, forced, target, random)
        corner = []
        for axis, (size, patch) in enumerate(zip(case.labels.shape, self.patch, strict=True)):
            room = size - patch
            if room <= 0:
                corner.append(room // 2)
            elif voxel is None:
                corner.append(int(random.integers(room + 1)))
            else:
                corner.append(min(max(int(voxel[axis]) - patch // 2, 0), room))
        return corner[0], corner[1], corner[2]

    def _centre(
        self, case: PreparedCase, forced: bool, target: int | None, random: np.random.Generator
    ) -> NDArray[np.int32] | None:
        """The voxel around which the patch lies; None for anywhere."""
        present = [number for number, places in enumerate(case.locations) if len(places)]
        places = case.annotated
        if forced and present:
            target = self.sampler.draw_target(present, random) if target is None else target
            places = case.locations[target]
            if self.plan.size_aware:
                parts = self.open.components(case.name, target)
                places = parts[random.integers(len(parts))].places
        return places[random.integers(len(places))] if places is not None and len(places) else None


def cut(array: np.ndarray, start: Triple, size: Triple, outside: int = 0) -> np.ndarray:
    """A copy of (..., *size) from (..., Z, Y, X) at ``start``, which may lie outside; ``outside`` stands there."""
    space = array.shape[-3:]
    result = np.full((*array.shape[:-3], *size), outside, array.dtype)
    inner, outer = [], []
    for first, length, available in zip(start, size, space, strict=True):
        low, high = max(first, 0), max(min(first + length, available), first, 0)
        inner.append(slice(low - first, high - first))
        outer.append(slice(low, high))
    result[(..., *inner)] = array[(..., *outer)]
    return result


def make_loader(
    dataset: PatchDataset, first_iteration: int, iterations: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches of iterations ``first_iteration`` to ``iterations - 1`` in order, read ahead by worker processes.

    With 0 workers they are read when asked for. The batches do not depend on the number of workers.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first_iteration, iterations),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
