"""From a Case and a structure to one patch around a region, and from a map of that patch to the file's own grid.

Knows nothing of methods. The region is a predicted structure, one of its components, or what lies around a point; it is
seen by one fold's network in one patch, centred on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.arrays import Image, Labels, Mask, Triple
from medseg.cases.labels import LabelTable
from medseg.errors import SettingsError
from medseg.explanation.target import Target
from medseg.images.volume import Volume
from medseg.inference.model import Networks
from medseg.inference.restore import crop_view, restore_scores
from medseg.inference.slab import Rows
from medseg.preprocessing.grid import Grid
from medseg.preprocessing.prepare import prepare_labels


@dataclass(frozen=True)
class Question:
    """Which part of a predicted structure is to be explained."""

    label: str
    component: int | None = None
    """1 is its largest component, 2 the next, ...; None takes all of it."""
    point: Triple | None = None
    """Voxel of the file, (z, y, x): whatever lies within ``radius_mm`` of it, predicted or not."""
    radius_mm: float = 5.0


@dataclass(frozen=True)
class Window:
    """Where the patch lies in the prepared image; it may reach over its edges."""

    start: Triple
    size: Triple
    shape: Triple
    """Of the prepared image."""

    def cut(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The patch of an array ``(..., Z, Y, X)``, zeros beyond the image."""
        inside, there = self._slices()
        patch = np.zeros((*array.shape[:-3], *self.size), array.dtype)
        patch[(..., *there)] = array[(..., *inside)]
        return patch

    def put(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The prepared image with the patch ``(Z, Y, X)`` in its place and zeros around it."""
        inside, there = self._slices()
        array = np.zeros(self.shape, np.float32)
        array[inside] = patch[there]
        return array

    def _slices(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        pairs = [
            (slice(max(start, 0), min(start + size, shape)), max(start, 0) - start)
            for start, size, shape in zip(self.start, self.size, self.shape, strict=True)
        ]
        return tuple(one for one, _ in pairs), tuple(
            slice(before, before + one.stop - one.start) for one, before in pairs
        )


def region_of(question: Question, predicted: Labels, spacing: Sequence[float], table: LabelTable) -> Mask:
    """The region ``(Z, Y, X)`` on the file's grid. Raises SettingsError where there is none."""
    if question.label not in table.target_names:
        raise SettingsError(f"There is no structure '{question.label}'. Known are: {', '.join(table.target_names)}.")
    if question.point is not None:
        if any(not 0 <= at < size for at, size in zip(question.point, predicted.shape, strict=True)):
            raise SettingsError(f"point={list(question.point)} lies outside of the image {predicted.shape} (z, y, x).")
        axes = np.ogrid[tuple(slice(size) for size in predicted.shape)]
        square = sum(((axis - at) * mm) ** 2 for axis, at, mm in zip(axes, question.point, spacing, strict=True))
        return np.asarray(square <= max(question.radius_mm, max(spacing) / 2) ** 2)
    mask = table.targets[table.target_names.index(question.label)].mask(predicted)
    if not mask.any():
        raise SettingsError(
            f"'{question.label}' was not found in this case, so there is nothing to explain. Ask about a place with "
            "point=[z,y,x]."
        )
    if question.component is None:
        return mask
    components, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    if question.component > count:
        raise SettingsError(f"'{question.label}' has {count} component(s) in this case, not {question.component}.")
    order = np.argsort(-np.bincount(components.ravel())[1:], kind="stable")
    return np.asarray(components == 1 + order[question.component - 1])


def target_of(
    region: Mask, label: str, image: Volume, prepared: Image, grid: Grid, model: Networks
) -> tuple[Target, Window]:
    """The question to the first of the model's networks, and where its patch lies.

    ``prepared`` is ``(C, Z, Y, X)`` on the network's grid. Raises SettingsError for a region outside of the crop box.
    """
    found = prepare_labels(replace(image, array=region.astype(np.uint8)), grid, 2) > 0
    if not found.any():
        raise SettingsError(
            "The region lies in the empty margin of the image, or is smaller than the network's voxels."
        )
    patch, inside, window = patch_around(found, prepared, model)
    offset = 0 if model.labels.activation == "sigmoid" else 1
    output = offset + model.labels.target_names.index(label)
    return Target(model.networks[0], patch, output, inside, model.labels.activation), window


def patch_around(found: Mask, prepared: Image, model: Networks) -> tuple[Tensor, Tensor, Window]:
    """The patch ``(1, C, Z, Y, X)`` about the middle of what was found ``(Z, Y, X)`` on the network's grid, what of it
    lies in the patch, and where that is."""
    places = np.argwhere(found)
    centre = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    z, y, x = (
        _start(int(at), size, shape)
        for at, size, shape in zip(centre, model.configuration.patch_size, found.shape, strict=True)
    )
    window = Window((z, y, x), model.configuration.patch_size, (found.shape[0], found.shape[1], found.shape[2]))
    device = next(model.networks[0].parameters()).device
    patch = torch.from_numpy(window.cut(prepared)[None].astype(np.float32)).to(device)
    return patch, torch.from_numpy(window.cut(found)).to(device), window


def _start(centre: int, size: int, shape: int) -> int:
    """Centred on a place, but within the image as far as it is large enough."""
    return (shape - size) // 2 if shape <= size else min(max(centre - size // 2, 0), shape - size)


def on_own_grid(values: Tensor, window: Window, grid: Grid) -> NDArray[np.float32]:
    """A patch's map ``(Z, Y, X)`` on the file's own grid, zeros around it."""
    result = np.zeros(grid.file_shape, np.float32)
    whole = torch.from_numpy(window.put(values.detach().cpu().numpy()))
    crop = crop_view(result, grid)
    for index, row in enumerate(restore_scores([Rows(0, whole[None])], grid)):
        crop[index] = row[0].numpy()
    return result
