"""Fingerprints made up from spacings and shapes, for tests of the rules."""

from collections.abc import Callable, Sequence

import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.planning.fingerprint import CaseMeasurements, ChannelIntensities, Fingerprint


def fingerprint_of(
    spacings: Sequence[Sequence[float]],
    shapes: Sequence[Sequence[int]],
    orientation: str = "stored",
    channel: str = "MRI",
    relative_volume: float = 1.0,
    channels: int = 1,
) -> Fingerprint:
    return Fingerprint(
        dataset="made_up",
        orientation=orientation,
        labels=("background", "one"),
        channels=(
            ChannelIntensities(
                name=channel,
                mean=50,
                median=48,
                std=20,
                minimum=-900,
                maximum=900,
                percentile_00_5=-80,
                percentile_99_5=210,
            ),
        )
        * channels,
        cases=tuple(
            CaseMeasurements(
                name=f"case_{i:03d}",
                spacing=tuple(spacing),
                shape=tuple(shape),
                cropped_shape=tuple(shape),
                label_voxels=(shape[0] * shape[1] * shape[2] // 50,) * 40,  # no structure is small
                voxel_hash="",
            )
            for i, (spacing, shape) in enumerate(zip(spacings, shapes, strict=True))
        ),
        median_relative_volume=relative_volume,
    )


def labels_of(classes: int | Sequence[str]) -> LabelTable:
    names = [f"structure {i}" for i in range(1, classes)] if isinstance(classes, int) else list(classes)
    background = Label(name="background", value=0)
    return LabelTable(labels=(background, *(Label(name=name, value=i) for i, name in enumerate(names, 1))))


@pytest.fixture(scope="session")
def make_fingerprint() -> Callable[..., Fingerprint]:
    return fingerprint_of


@pytest.fixture(scope="session")
def make_labels() -> Callable[..., LabelTable]:
    return labels_of
