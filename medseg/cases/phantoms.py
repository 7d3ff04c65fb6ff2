"""Phantoms: CT-like abdomens and MR-like heads with labels, made from a recipe and a seed, to try everything on.

The same recipe, case and seed give the same bytes. Lesions and organs have partial volume at their edges; a voxel has
the label of the last body that fills at least half of it. Noise is Gaussian, correlated over a few millimetres. Labels
may be sparse: then only some slices are annotated, spread over the image.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Spacing, Triple
from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.phantom_patient import Patient, draw_patient, parts_filled, random_stream
from medseg.cases.phantom_recipe import ANATOMIES, PhantomRecipe, load_recipe, phantoms_named
from medseg.errors import DatasetError, MedsegError
from medseg.files import folder_written_whole
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume
from medseg.progress import Progress, Silent

__all__ = ["PhantomRecipe", "load_recipe", "make_phantom", "phantoms_named", "write_phantoms"]

_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Letter -> world axis (x, y, z) and sign."""


def make_phantom(recipe: PhantomRecipe, case_index: int, seed: int | None = None) -> tuple[Volume, Volume]:
    """(image, labels) of one patient: float32 ``(C, Z, Y, X)`` whole numbers, and Labels ``(Z, Y, X)`` of file values.

    ``seed`` replaces the recipe's. Anatomy depends on seed, case and ``shape`` alone, so that the same patient can be
    seen by several scanners.
    """
    seed = recipe.seed if seed is None else seed
    anatomy = ANATOMIES[recipe.anatomy]
    patient = draw_patient(
        anatomy, seed, case_index, recipe.shape, recipe.lesion_radius_mm, recipe.lesion_contrast, recipe.contrast
    )
    scanner = random_stream(seed, case_index, 1)
    spacing = _draw_spacing(recipe, scanner)
    affine, shape = _grid(recipe, spacing)
    image, labels = _draw(recipe, patient, affine, shape, spacing)
    image += np.stack([_noise(recipe, scanner, shape, affine) for _ in recipe.channels])
    image = np.rint(np.maximum(image, anatomy.lowest)).astype(np.float32)
    if recipe.annotated < 1:
        labels = _annotated_in_part(labels, recipe, random_stream(seed, case_index, 2))
    return Volume(image, affine), Volume(labels, affine)


def write_phantoms(
    recipe: PhantomRecipe, folder: Path, count: int | None = None, progress: Progress | None = None
) -> Path:
    """Write images/, labels/ and dataset.yaml whole, unless this recipe's are there already; gives the dataset.yaml.

    Raises DatasetError when the folder holds something else, MedsegError when the disk refuses.
    """
    folder, progress = Path(folder), progress or Silent()
    recipe = recipe if count is None else recipe.model_copy(update={"cases": count})
    if _are_there(recipe, folder):
        return folder / "dataset.yaml"
    width = max(3, len(str(recipe.cases - 1)))
    progress.start(f"Making {recipe.cases} phantoms", recipe.cases)
    with folder_written_whole(folder) as new:
        cases = []
        for index in range(recipe.cases):
            name = f"phantom_{index:0{width}d}"
            endings = [""] if len(recipe.channels) == 1 else [f"_{index:04d}" for index in range(len(recipe.channels))]
            files = tuple(new / "images" / f"{name}{ending}.nii.gz" for ending in endings)
            case = Case(name, files, new / "labels" / f"{name}.nii.gz")
            image, labels = make_phantom(recipe, index)
            for path in (new / "images", new / "labels"):
                path.mkdir(exist_ok=True)
            for file, channel in zip(files, image.array, strict=True):
                write_image(file, channel[None], image)
            write_labels(new / "labels" / f"{name}.nii.gz", labels.array, labels)
            cases.append(case)
            progress.advance()
        recipe.save(new / "recipe.yaml")
        save_dataset(Dataset(recipe.name, recipe.channels, recipe.table, tuple(cases)), new / "dataset.yaml")
    progress.finish()
    return folder / "dataset.yaml"


def _are_there(recipe: PhantomRecipe, folder: Path) -> bool:
    """Whether the folder holds this very recipe's cases. Raises DatasetError rather than replace a user's files."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        made_by = PhantomRecipe.load(folder / "recipe.yaml")
    except MedsegError:
        raise DatasetError(
            f"{folder} holds something that is not phantoms, and is left alone. Name an empty folder."
        ) from None
    if made_by.content_hash() != recipe.content_hash():
        return False
    try:
        return len(read_dataset(folder / "dataset.yaml").cases) == recipe.cases
    except DatasetError:
        return False


def _draw_spacing(recipe: PhantomRecipe, random: np.random.Generator) -> Spacing:
    """Through-plane and in-plane spacing of this case, mm (z, y, x), to the micrometre as headers have it."""
    through, inside = 1 + recipe.spacing_variation * random.uniform(-1, 1, 2)
    z, y, x = (float(np.round(s * f, 3)) for s, f in zip(recipe.spacing, (through, inside, inside), strict=True))
    return z, y, x


def _grid(recipe: PhantomRecipe, spacing: Spacing) -> tuple[NDArray[np.float64], Triple]:
    """The affine of the stored array and its shape; the middle of the image lies at the middle of the patient."""
    steps_xyz, extents_xyz = spacing[::-1], recipe.field_of_view_mm[::-1]
    affine, shape = np.eye(4), []
    affine[:3, :3] = 0
    for axis, letter in enumerate(recipe.axes):
        world, sign = _DIRECTIONS[letter]
        step, extent = steps_xyz[world], extents_xyz[world]
        size = max(1, round(extent / step))
        middle = recipe.field_of_view_centre_z_mm if world == 2 else 0.0
        affine[world, axis] = sign * step
        affine[world, 3] = middle - sign * step * (size - 1) / 2
        shape.append(size)
    z, y, x = shape
    return affine, (z, y, x)


def _draw(
    recipe: PhantomRecipe, patient: Patient, affine: NDArray[np.float64], shape: Triple, spacing: Spacing
) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Intensities (C, Z, Y, X) without noise, and file values of labels."""
    values = {label.name: label.value for label in recipe.labels}
    place = patient.unwarp(*_world_axes(affine, shape))
    table = recipe.table
    image = np.stack([np.full(shape, around, np.float32) for around in ANATOMIES[recipe.anatomy].around])
    labels = table.to_values(np.zeros(shape, np.uint8))
    for part, box, filled in parts_filled(patient, place, (spacing[2], spacing[1], spacing[0])):
        for channel, intensity in zip(image, (part.intensity, *part.others), strict=True):
            inside = np.float32(intensity + recipe.intensity_offset)
            channel[box] += filled * (inside - channel[box])
        labels[box][filled >= 0.5] = values.get(part.name, values.get(part.belongs_to, table.values[0]))
    return image, labels


def _annotated_in_part(
    labels: NDArray[np.integer], recipe: PhantomRecipe, random: np.random.Generator
) -> NDArray[np.integer]:
    """The labels with the ignore value in all slices but some: one at a random place in each of so many equal parts."""
    assert recipe.ignore is not None  # the recipe has been validated
    count = max(1, round(recipe.annotated * len(labels)))
    borders = np.linspace(0, len(labels), count + 1).round().astype(int)
    kept = [random.integers(first, last) for first, last in pairwise(borders)]
    sparse = np.full_like(labels, recipe.ignore, dtype=np.result_type(labels, np.min_scalar_type(recipe.ignore)))
    sparse[kept] = labels[kept]
    return sparse


def _world_axes(affine: NDArray[np.float64], shape: Triple) -> tuple[NDArray[np.float32], ...]:
    """World x, y, z of the voxels; each varies along one stored axis only, so each is (n, 1, 1) or a turn of it."""
    coordinates = []
    for world in range(3):
        axis = int(np.abs(affine[world, :3]).argmax())
        steps = np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(3)])
        coordinates.append((affine[world, axis] * steps + affine[world, 3]).astype(np.float32))
    return tuple(coordinates)


def _noise(
    recipe: PhantomRecipe, random: np.random.Generator, shape: Triple, affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Gaussian noise of the recipe's standard deviation and correlation length."""
    from scipy.ndimage import gaussian_filter  # slow to import

    white = random.standard_normal(shape, dtype=np.float32)
    sigma = recipe.noise_correlation_mm / np.linalg.norm(affine[:3, :3], axis=0)
    smooth = gaussian_filter(white, sigma, mode="wrap")
    return (smooth * np.float32(recipe.noise / max(float(smooth.std()), 1e-6))).astype(np.float32)
