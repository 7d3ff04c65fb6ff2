"""Examples of a concept, and random ones beside them, from images and from boxes of images.

Knows nothing of files. A box of an image lies in the network's patch centred on it, where the layer sees what is around
it; an image that is shown whole is its own box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from medseg.arrays import Image, Triple
from medseg.errors import SettingsError
from medseg.explanation.case import patch_around
from medseg.explanation.concepts import Example
from medseg.images.volume import Volume
from medseg.inference.model import Networks
from medseg.preprocessing.grid import Grid
from medseg.preprocessing.prepare import prepare_labels

Box = tuple[Triple, Triple]
"""First voxel (z, y, x) of the file, and the first one behind it."""


def example_in(image: Volume, box: Box | None, prepared: Image, grid: Grid, networks: Networks, name: str) -> Example:
    """A box of an image, or all of it. Raises SettingsError, by the case's name, for one outside of the image."""
    marked = np.zeros(image.shape, np.uint8)
    if box is None:
        marked[:] = 1
    else:
        low, high = box
        if any(not 0 <= a < b <= size for a, b, size in zip(low, high, image.shape, strict=True)):
            raise SettingsError(
                f"{name}: the box {list(low)} to {list(high)} is not inside of {image.shape} (z, y, x)."
            )
        marked[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    found = prepare_labels(replace(image, array=marked), grid, 2) > 0
    if not found.any():
        raise SettingsError(f"{name}: the box lies in the empty margin, or is smaller than the network's voxels.")
    patch, inside, _ = patch_around(found, prepared, networks)
    return Example(patch, inside)


def random_examples(
    prepared: Sequence[Image], like: Sequence[Example], count: int, networks: Networks, seed: int
) -> list[Example]:
    """Boxes as large as the examples, anywhere in prepared images ``(C, Z, Y, X)``."""
    generator, found = np.random.default_rng(seed), list[Example]()
    for number in range(count):
        image = prepared[int(generator.integers(len(prepared)))]
        places = torch.nonzero(like[number % len(like)].region)
        size = (places.amax(dim=0) - places.amin(dim=0) + 1).tolist()
        marked = np.zeros(image.shape[1:], bool)
        starts = [
            int(generator.integers(max(whole - one, 0) + 1)) for whole, one in zip(marked.shape, size, strict=True)
        ]
        marked[tuple(slice(start, start + one) for start, one in zip(starts, size, strict=True))] = True
        patch, inside, _ = patch_around(marked, image, networks)
        found.append(Example(patch, inside))
    return found
