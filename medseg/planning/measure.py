"""From a Dataset to its Fingerprint: every Case is read once, cropped, measured and forgotten.

Knows nothing of networks. Rule: nnU-Net v2's fingerprint (Isensee et al. 2021); sizes and spacings stand in the
Fingerprint's orientation, and intensities are sampled in stored order, so that they do not depend on it. Voxels that
nobody annotated are no foreground (nnU-Net counts its ignore label in).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from medseg.arrays import Triple
from medseg.cases.case import Case, doubt_sides, read_case_image, read_case_labels
from medseg.cases.content import voxel_hash
from medseg.cases.dataset import Dataset
from medseg.cases.likeness import thumbnail_of
from medseg.errors import Complaint, DatasetError, ImageFileError, MedsegError
from medseg.images.crop import crop, nonzero_box
from medseg.images.orientation import to_canonical
from medseg.planning.fingerprint import CaseMeasurements, ChannelIntensities, Fingerprint
from medseg.planning.intensities import SAMPLE, SEED, Sample, describe_sample, draw_sample, histogram_of, merge_samples
from medseg.progress import Progress

Orientation = Literal["canonical", "stored"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Measured:
    """What one Case adds to the Fingerprint."""

    case: CaseMeasurements
    relative_volume: float
    samples: tuple[Sample, ...]
    """One per channel."""


def measure_fingerprint(
    dataset: Dataset, orientation: Orientation, progress: Progress, workers: int = 0, sample: int = SAMPLE
) -> Fingerprint:
    """Measure every Case with labels; the result does not depend on ``workers`` (threads; 0 uses the calling one).

    ``sample`` is how many foreground voxels are drawn over all Cases, with replacement.
    Raises DatasetError with every Case that can't be read, or when no Case has a voxel of any structure.
    """
    if not dataset.cases:
        raise DatasetError(f"Dataset '{dataset.name}' has no cases with labels, so there is nothing to measure.")
    draws = sample // len(dataset.cases)
    complaints: list[Complaint] = []
    measured: list[Measured] = []
    progress.start(f"Measuring {len(dataset.cases)} cases", len(dataset.cases))
    pending: list[list[Sample]] = [[] for _ in dataset.channels]
    with _mapper(workers) as run:
        for found in run(lambda case: _try_measure(case, dataset, orientation, draws), dataset.cases):
            if isinstance(found, Complaint):
                complaints.append(found)
            else:
                measured.append(found)
                _collect(pending, found.samples)
            progress.advance()
    progress.finish()
    if complaints:
        raise DatasetError(f"{len(complaints)} of {len(dataset.cases)} cases could not be measured:", complaints)
    return Fingerprint(
        dataset=dataset.name,
        orientation=orientation,
        labels=("background", *dataset.labels.names),
        channels=tuple(
            _channel(name, merge_samples(samples), dataset.name)
            for name, samples in zip(dataset.channels, pending, strict=True)
        ),
        cases=tuple(one.case for one in measured),
        median_relative_volume=float(np.median([one.relative_volume for one in measured])),
    )


def measure_case(case: Case, dataset: Dataset, orientation: Orientation, draws: int) -> Measured:
    """One Case's measurements and its sample of ``draws`` foreground voxels per channel.

    Raises DatasetError or GeometryError when it can't be read, and DatasetError where structures have a side but the
    file does not say on which side of the patient they lie.
    """
    image = read_case_image(case, len(dataset.channels))
    labels = read_case_labels(case, dataset.labels, image)
    doubt = doubt_sides(case, image, dataset.labels.target_names) if orientation == "canonical" else None
    if doubt is not None and doubt.severity == "error":
        raise ImageFileError(doubt.code, doubt.sentence, doubt.remedy)
    lower, upper = nonzero_box(image.array)
    cropped = crop(image.array, lower, upper)
    inside = crop(labels.array, lower, upper)
    foreground = (inside > 0) & (inside < len(dataset.labels))
    stream = np.random.RandomState(SEED)
    samples = tuple(draw_sample(channel[foreground], draws, stream) for channel in cropped)
    axes = to_canonical(image.affine)[0] if orientation == "canonical" else (0, 1, 2)
    size = (cropped.shape[1], cropped.shape[2], cropped.shape[3])
    classes = len(dataset.labels)
    measurements = CaseMeasurements(
        name=case.name,
        spacing=_permuted(image.spacing, axes),
        shape=_permuted(image.shape, axes),
        cropped_shape=_permuted(size, axes),
        label_voxels=tuple(np.bincount(labels.array.ravel(), minlength=classes)[:classes].tolist()),
        voxel_hash=voxel_hash(image, labels),
        thumbnail=thumbnail_of(image.array),
    )
    return Measured(measurements, math.prod(size) / math.prod(image.shape), samples)


def _try_measure(case: Case, dataset: Dataset, orientation: Orientation, draws: int) -> Measured | Complaint:
    try:
        return measure_case(case, dataset, orientation, draws)
    except ImageFileError as error:
        return Complaint(case.name, error.code, error.sentence, error.remedy)
    except MedsegError as error:
        return Complaint(case.name, "unreadable-case", str(error), "")


@contextmanager
def _mapper(workers: int) -> Iterator:
    """The built-in ``map``, or one over threads; both keep the order of the Cases."""
    if workers < 1:
        yield map
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="measure") as pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(pending: list[list[Sample]], samples: tuple[Sample, ...]) -> None:
    """Keep a Case's samples; from time to time equal values are joined, so that memory follows the distinct ones."""
    for kept, drawn in zip(pending, samples, strict=True):
        kept.append(drawn)
        if sum(len(s.values) for s in kept[1:]) > max(len(kept[0].values), 4_000_000):
            kept[:] = [merge_samples(kept)]


def _channel(name: str, sample: Sample, dataset: str) -> ChannelIntensities:
    if len(sample.values) == 0:
        raise DatasetError(
            f"No case of dataset '{dataset}' has a voxel of any structure, so nothing can be planned for them. "
            "Check that the labels are the right files and lie on the images."
        )
    found = describe_sample(sample)
    low, median, high = found.percentiles
    return ChannelIntensities(
        name=name,
        mean=found.mean,
        median=median,
        std=found.std,
        minimum=found.minimum,
        maximum=found.maximum,
        percentile_00_5=low,
        percentile_99_5=high,
        histogram=histogram_of(sample, low, high),
    )


def _permuted(values: tuple[_T, _T, _T], axes: Triple) -> tuple[_T, _T, _T]:
    a, b, c = axes
    return values[a], values[b], values[c]
