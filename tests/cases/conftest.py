"""A tiny dataset that can be written in every layout."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.documents import dump_yaml
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume

NAMES = ("ab_007", "ab_010", "ab_002", "zz-1", "Ab_003", "ab_11")
LABELS = {"background": 0, "liver": 3, "left kidney": 7}


def volume_of(name: str, channels: int = 1) -> tuple[Volume, np.ndarray]:
    """Voxels that depend on the name only."""
    random = np.random.default_rng(sum(name.encode()))
    affine = np.array([[0, 0, 1.5, -3], [0, 2.0, 0, 4], [3.0, 0, 0, 5], [0, 0, 0, 1]])
    image = random.normal(size=(channels, 5, 6, 7)).astype(np.float32)
    labels = random.choice([0, 3, 7], size=(5, 6, 7)).astype(np.uint8)
    return Volume(image, affine), labels


def write_case(name: str, images: list[Path], labels: Path | None, channels: int) -> None:
    """One file for all channels, or one file each."""
    volume, values = volume_of(name, channels)
    for path in [*images, *([labels] if labels else [])]:
        path.parent.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(images):
        write_image(path, volume.array if len(images) == 1 else volume.array[index], volume)
    if labels is not None:
        write_labels(labels, values, volume)


def write_decathlon(folder: Path, channels: tuple[str, ...]) -> Path:
    for name in NAMES:
        write_case(name, [folder / f"imagesTr/{name}.nii.gz"], folder / f"labelsTr/{name}.nii.gz", len(channels))
    content = {
        "name": "tiny",
        "modality": {str(i): c for i, c in enumerate(channels)},
        "labels": {str(v): k for k, v in LABELS.items()},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in NAMES],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_nnunet(folder: Path, channels: tuple[str, ...]) -> Path:
    for name in NAMES:
        images = [folder / f"imagesTr/{name}_{i:04d}.nii.gz" for i in range(len(channels))]
        write_case(name, images, folder / f"labelsTr/{name}.nii.gz", len(channels))
    content = {
        "name": "tiny",
        "channel_names": {str(i): c for i, c in enumerate(channels)},
        "labels": LABELS,
        "numTraining": len(NAMES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_folders(folder: Path, channels: tuple[str, ...], described: bool = True) -> Path:
    for name in NAMES:
        suffixes = [""] if len(channels) == 1 else [f"_{i:04d}" for i in range(len(channels))]
        images = [folder / f"images/{name}{suffix}.nii.gz" for suffix in suffixes]
        write_case(name, images, folder / f"labels/{name}.nii.gz", len(channels))
    if described:
        content = {"name": "tiny", "channels": list(channels), "labels": LABELS}
        (folder / "dataset.yaml").write_text(dump_yaml(content))
    return folder


def write_yaml(folder: Path, channels: tuple[str, ...]) -> Path:
    cases = []
    for name in NAMES:
        write_case(name, [folder / f"a/{name}.nii.gz"], folder / f"b/{name}.mha", len(channels))
        cases.append({"name": name, "images": f"a/{name}.nii.gz", "labels": f"b/{name}.mha"})
    labels = [{"name": name, "value": value} for name, value in LABELS.items()]
    content = {"name": "tiny", "channels": list(channels), "labels": labels, "cases": cases}
    (folder / "dataset.yaml").write_text(dump_yaml(content))
    return folder / "dataset.yaml"


def write_csv(folder: Path, channels: tuple[str, ...]) -> Path:
    write_folders(folder, channels)
    many = len(channels) > 1
    with (folder / "cases.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["case", *([f"image_{i}" for i in range(len(channels))] if many else ["image"]), "labels"])
        for name in NAMES:
            suffixes = [f"_{i:04d}" for i in range(len(channels))] if many else [""]
            table.writerow([name, *(f"images/{name}{s}.nii.gz" for s in suffixes), f"labels/{name}.nii.gz"])
    return folder / "cases.csv"


WRITERS: dict[str, Callable[[Path, tuple[str, ...]], Path]] = {
    "decathlon": write_decathlon,
    "nnunet": write_nnunet,
    "folders": write_folders,
    "yaml": write_yaml,
    "csv": write_csv,
}


@pytest.fixture
def written() -> dict[str, Callable[[Path, tuple[str, ...]], Path]]:
    """Layout -> a function that writes the tiny dataset in it and gives the path to read."""
    return WRITERS


@pytest.fixture
def undescribed(tmp_path: Path) -> Path:
    """A pair of folders without any description."""
    return write_folders(tmp_path / "tiny", ("CT",), described=False)
