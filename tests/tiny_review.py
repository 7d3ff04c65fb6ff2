"""A patient whose sides can be told apart, in any stored orientation; and a workspace whose cases can be read."""

import shutil
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np

from medseg.cases.formats import read_dataset
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume
from medseg.review.case import Finding, ReviewCase

from tiny import TABLE, write_tiny_workspace

ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
"""All 48 ways to store an upright array."""
SHAPE, SPACING = (8, 12, 10), (3.0, 1.0, 2.0)


def patient() -> Volume:
    """RAS, canonical (z, y, x): dark but for three bright spots, at the patient's right, front and head."""
    array = np.zeros(SHAPE, np.float32)
    array[4, 6, 8] = 100  # right of the middle: x grows to the right
    array[4, 10, 5] = 200  # in front of it
    array[7, 6, 5] = 300  # above it
    affine = np.array([[0, 0, SPACING[2], -7], [0, SPACING[1], 0, 5], [SPACING[0], 0, 0, 11], [0, 0, 0, 1.0]])
    return Volume(array[None], affine)


def stored(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same patient with other stored axes."""
    array = np.transpose(volume.array, (0, *(1 + axis for axis in order)))
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, (own, flipped) in enumerate(zip(order, flips, strict=True)):
        length = volume.shape[own]
        matrix[own, axis], matrix[own, 3] = (-1, length - 1) if flipped else (1, 0)
    slices = tuple(slice(None, None, -1) if flipped else slice(None) for flipped in flips)
    return Volume(np.ascontiguousarray(array[(slice(None), *slices)]), volume.affine @ matrix)


def write_patient(folder: Path, volume: Volume, name: str = "patient") -> ReviewCase:
    """The patient as NIfTI with labels: structure 1 is the bright spot at the right, 2 the one at the head."""
    image = folder / f"{name}.nii.gz"
    write_image(image, volume.array, volume)
    labels = np.zeros(volume.shape, np.uint8)
    labels[volume.array[0] == 100], labels[volume.array[0] == 300] = 1, 2
    write_labels(folder / "labels" / f"{name}.nii.gz", labels, volume)
    finding = Finding("a model", folder / "labels" / f"{name}.nii.gz", TABLE)
    return ReviewCase(name, (image,), ("MR",), (finding,))


def write_read_workspace(folder: Path) -> Path:
    """A workspace whose first two cases were held out, with predictions as good as the labels."""
    workspace = write_tiny_workspace(folder)
    predictions = workspace / "3d_fullres" / "fold_0" / "validation"
    predictions.mkdir(parents=True)
    for case in read_dataset(workspace / "dataset.yaml").cases[:2]:
        assert case.labels is not None
        shutil.copy(case.labels, predictions / f"{case.name}.nii.gz")
    return workspace


def described(case: ReviewCase, words: str) -> ReviewCase:
    """The same case with a header's text."""
    return replace(case, description=words)
