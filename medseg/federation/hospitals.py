"""Hospitals made of one dataset or of phantoms, as unlike as real ones: for simulations, never for a real federation.

Knows nothing of training. A hospital's cases lie in one folder, with a ``dataset.yaml`` that sets some aside for
testing. Phantoms differ by scanner (spacing, intensities, noise) and by annotator, who draws structures larger or
smaller than they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import grey_dilation, grey_erosion

from medseg.arrays import Labels, Spacing
from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.phantoms import PhantomRecipe, load_recipe, make_phantom
from medseg.errors import SettingsError
from medseg.files import folder_written_whole
from medseg.images.formats import write_image, write_labels
from medseg.progress import Progress, Silent

STRUCTURES = ("liver", "spleen", "spine")
TESTED = 5
"""Cases of each hospital that are set aside: as many as a site needs to tell a mean."""
LEFT_OUT = "elsewhere"
_NAMES = ("north", "east", "south", "west")


@dataclass(frozen=True)
class Hospital:
    """One imagined hospital."""

    cases: int
    """For training."""
    spacing: Spacing
    """mm, (z, y, x)."""
    intensity_offset: float = 0.0
    noise: float = 20.0
    contrast: float = 1.0
    style: int = 0
    """Voxels by which the annotator draws structures too large in each slice; below 0 too small."""


HOSPITALS = (
    Hospital(16, (7.5, 6.0, 6.0)),
    Hospital(10, (10.0, 5.0, 5.0), intensity_offset=40.0, noise=30.0),
    Hospital(7, (7.5, 7.5, 7.5), contrast=0.7, style=1),
    Hospital(5, (6.0, 6.0, 6.0), intensity_offset=-40.0, noise=12.0, contrast=1.3, style=-1),
)
_ELSEWHERE = Hospital(0, (8.5, 6.5, 6.5), intensity_offset=20.0, noise=35.0, contrast=0.85)


def hospital_names(count: int) -> tuple[str, ...]:
    """Names for so many hospitals."""
    return tuple(
        f"{_NAMES[number % len(_NAMES)]}{'' if number < len(_NAMES) else f'-{number // len(_NAMES) + 1}'}"
        for number in range(count)
    )


def write_hospitals(folder: Path, count: int, seed: int, progress: Progress | None = None) -> dict[str, Path]:
    """Phantom hospitals, and last one that is to take no part; the dataset.yaml of each by name.

    From the fifth on the first four come again with other patients. What is there already is kept.
    """
    progress, found = progress or Silent(), {}
    kinds = {name: HOSPITALS[number % len(HOSPITALS)] for number, name in enumerate(hospital_names(count))}
    kinds[LEFT_OUT] = _ELSEWHERE
    progress.start(f"Making {len(kinds)} hospitals", len(kinds))
    for number, (name, hospital) in enumerate(kinds.items()):
        place = folder / f"{name}-{seed}"
        if not (place / "dataset.yaml").is_file():
            _write(place, name, hospital, 1000 * seed + number)
        found[name] = place / "dataset.yaml"
        progress.advance()
    progress.finish()
    return found


def _write(place: Path, name: str, hospital: Hospital, seed: int) -> None:
    recipe = _recipe(hospital, seed)
    with folder_written_whole(place) as new:
        cases = []
        for number in range(hospital.cases + TESTED):
            image, labels = make_phantom(recipe, number)
            tested = number >= hospital.cases
            # The annotator's style is in what he taught, not in what is true: held-out cases are drawn as they are.
            drawn = labels.array if tested else drawn_in_style(labels.array, hospital.style)
            case = Case(
                f"{name}_{number:03d}",
                (new / "images" / f"{name}_{number:03d}.nii.gz",),
                new / "labels" / f"{name}_{number:03d}.nii.gz",
                split="test" if tested and hospital.cases else "training",
            )
            for path in (new / "images", new / "labels"):
                path.mkdir(exist_ok=True)
            assert case.labels is not None
            write_image(case.images[0], image.array, image)
            write_labels(case.labels, drawn, labels)
            cases.append(case)
        save_split(Dataset(name, recipe.channels, recipe.table, tuple(cases)), new / "dataset.yaml")


def drawn_in_style(labels: Labels, style: int) -> Labels:
    """Labels (Z, Y, X) drawn ``style`` voxels too large in each slice, or too small where it is negative."""
    if style == 0:
        return labels
    size = (1, 2 * abs(style) + 1, 2 * abs(style) + 1)
    changed = grey_dilation(labels, size=size) if style > 0 else grey_erosion(labels, size=size)
    return np.where(labels > 0, labels, changed).astype(labels.dtype) if style > 0 else changed.astype(labels.dtype)


def _recipe(hospital: Hospital, seed: int) -> PhantomRecipe:
    base = load_recipe()
    kept = {"background", *STRUCTURES}
    return base.model_copy(
        update={
            "labels": tuple(label for label in base.labels if label.name in kept),
            "cases": hospital.cases + TESTED,
            "seed": seed,
            "spacing": hospital.spacing,
            "intensity_offset": hospital.intensity_offset,
            "noise": hospital.noise,
            "contrast": hospital.contrast,
        }
    )


def split_dataset(dataset: Dataset, folder: Path, count: int, seed: int) -> dict[str, Path]:
    """A user's dataset dealt to hospitals of unequal size, patients whole, and one that is to take no part.

    Each sets aside a fifth of its cases, at least 5. Raises SettingsError where the cases do not go so far.
    """
    groups = sorted({case.group for case in dataset.cases})
    order = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    shares = np.array([1.0 / (number + 1) for number in range(count)] + [1.0 / (count + 1)])
    borders = np.rint(np.cumsum(shares / shares.sum()) * len(order)).astype(int)
    found = {}
    for name, start, end in zip(
        (*hospital_names(count), LEFT_OUT), (0, *borders[:-1].tolist()), borders.tolist(), strict=True
    ):
        own = set(order[start:end])
        cases = [case for case in dataset.cases if case.group in own]
        tested = len(cases) if name == LEFT_OUT else max(TESTED, len(cases) // 5)
        if len(cases) < (TESTED if name == LEFT_OUT else 2 * TESTED):
            raise SettingsError(
                f"{len(dataset.cases)} cases are too few for {count} hospitals and one that takes no part: '{name}' "
                f"would have {len(cases)}. Use fewer sites, or more cases."
            )
        aside = set() if name == LEFT_OUT else {case.name for case in cases[-tested:]}
        split = tuple(replace(case, split="test" if case.name in aside else "training") for case in cases)
        found[name] = folder / name / "dataset.yaml"
        save_split(replace(dataset, name=name, cases=split, test=(), unlabelled=()), found[name])
    return found


def save_split(dataset: Dataset, path: Path) -> None:
    """Write a dataset.yaml whose cases are on the sides that they say themselves."""
    apart = replace(
        dataset,
        cases=tuple(case for case in dataset.cases if case.split == "training"),
        test=tuple(case for case in dataset.cases if case.split == "test"),
    )
    save_dataset(apart, path)


def pool(datasets: Mapping[str, Path], names: Sequence[str], path: Path) -> Path:
    """A dataset.yaml with the cases of all named hospitals, as if they had been put in one place."""
    read = [read_dataset(datasets[name]) for name in names]
    pooled = replace(
        read[0],
        name="pooled",
        cases=tuple(sorted((case for one in read for case in one.cases), key=lambda case: case.name)),
        test=tuple(sorted((case for one in read for case in one.test), key=lambda case: case.name)),
        remarks=(),
    )
    save_dataset(pooled, path)
    return path
