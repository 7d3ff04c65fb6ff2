"""Everything that is wrong with a Dataset, found in one run: each file is read, and the Cases are compared.

Rules: the silent failures that peers let through (mirrored labels, unknown values, one patient twice, sides without a
known orientation). Reading goes through ``medseg.images.formats``, whose refusals become Complaints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from medseg.arrays import Spacing
from medseg.cases.case import Case, doubt_sides, on_one_grid
from medseg.cases.check_labels import label_complaints, table_complaints
from medseg.cases.content import content_key, unordered_key
from medseg.cases.dataset import Dataset
from medseg.cases.formats import find_dataset
from medseg.cases.likeness import find_alike, thumbnail_of
from medseg.documents import Document
from medseg.errors import Complaint, DatasetError, GeometryError, ImageFileError, MedsegError
from medseg.images.formats import is_dicom, read_image, read_labels, read_labels_for
from medseg.images.orientation import to_canonical
from medseg.images.volume import Volume, require_same_grid
from medseg.progress import Progress, Silent

_OUTLIER = 3.0
"""A spacing so many times larger or smaller than the median is worth a look."""


class CheckReport(Document):
    """What ``medseg check`` found; written as JSON."""

    kind: ClassVar[str] = "check"

    dataset: str
    """Its name; empty where no layout was understood."""
    cases: int
    """With labels."""
    unlabelled: int
    """Without."""
    test: int = 0
    """Of the test set."""
    complaints: tuple[Complaint, ...]
    """Errors first."""

    @property
    def errors(self) -> tuple[Complaint, ...]:
        return tuple(x for x in self.complaints if x.severity == "error")

    @property
    def warnings(self) -> tuple[Complaint, ...]:
        return tuple(x for x in self.complaints if x.severity == "warning")


@dataclass(frozen=True)
class _Examined:
    """What is kept of one Case once its voxels are let go."""

    case: Case
    complaints: tuple[Complaint, ...]
    spacing: Spacing | None = None
    """In canonical axis order."""
    content: str = ""
    unordered: str = ""
    thumbnail: str = ""
    values: frozenset[int] | None = None


def check_dataset(path: Path, progress: Progress | None = None, workers: int = 0) -> list[Complaint]:
    """Every complaint about a Dataset, errors first; never raises for what it finds.

    ``workers`` threads read files; 0 reads one after the other.
    """
    return list(report_on(path, progress, workers).complaints)


def report_on(path: Path, progress: Progress | None = None, workers: int = 0) -> CheckReport:
    """The same with the Dataset's name and number of Cases."""
    progress = progress or Silent()
    try:
        draft = find_dataset(path)
    except DatasetError as error:
        found = error.complaints or (Complaint("", "no-dataset", str(error), "", str(path)),)
        return CheckReport(dataset="", cases=0, unlabelled=0, complaints=found)
    dataset = draft.as_found()
    every = (*dataset.cases, *dataset.test, *dataset.unlabelled)
    progress.start("Checking", len(every))

    def examine(case: Case) -> _Examined:
        examined = _examine(case, dataset)
        progress.advance()
        return examined

    examined = _each(examine, every, workers)
    progress.finish()
    complaints = [*draft.complaints, *draft.remarks, *(x for one in examined for x in one.complaints)]
    complaints += [
        *_twins(examined),
        *_resaved(examined),
        *table_complaints(dataset.labels, [one.values for one in examined if one.values is not None]),
        *_outliers(examined),
    ]
    distinct = {(x.case, x.code, x.file): x for x in complaints}.values()
    return CheckReport(
        dataset=dataset.name,
        cases=len(dataset.cases),
        unlabelled=len(dataset.unlabelled),
        test=len(dataset.test),
        complaints=tuple(sorted(distinct, key=lambda x: (x.severity, x.code, x.case, x.file))),
    )


def _each(examine: Callable[[Case], _Examined], cases: Iterable[Case], workers: int) -> list[_Examined]:
    if workers == 0:
        return [examine(case) for case in cases]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return list(pool.map(examine, cases))


def _examine(case: Case, dataset: Dataset) -> _Examined:
    complaints: list[Complaint] = []
    volumes = [_read(case, path, read_image, complaints) for path in case.images]
    image = volumes[0]
    labels = None if case.labels is None else _read_labels(case, case.labels, image, dataset, complaints)
    values = None if labels is None else frozenset(np.unique(labels.array).tolist())
    if labels is not None and values is not None:
        complaints += label_complaints(case, values, dataset.labels)
    if image is None or any(volume is None for volume in volumes):
        return _Examined(case, tuple(complaints), values=values)
    complaints += _grid_complaints(case, [*volumes, labels])
    channels = sum(volume.array.shape[0] for volume in volumes if volume is not None)
    if channels != len(dataset.channels):
        complaints.append(_about(
            case, "wrong-channels",
            f"Case '{case.name}' has {channels} channel(s), but the dataset has {len(dataset.channels)}: "
            f"{', '.join(dataset.channels)}.",
            "Add the missing channel, or correct the names of the channels.",
        ))  # fmt: skip
    doubt = doubt_sides(case, image, dataset.labels.target_names)
    complaints += [doubt] if doubt else []
    complaints += [_constant(case, path) for path, volume in zip(case.images, volumes, strict=True) if _is_flat(volume)]
    arrays = [volume.array for volume in volumes if volume is not None]
    flat = all(_is_flat(volume) for volume in volumes)
    return _Examined(
        case,
        tuple(complaints),
        _canonical_spacing(image),
        "" if flat else content_key(arrays),
        "" if flat else unordered_key(arrays),
        "" if flat else thumbnail_of(image.array),
        values,
    )


def _read(case: Case, path: Path, read: Callable[[Path], Volume], complaints: list[Complaint]) -> Volume | None:
    """The Volume, its remarks kept as warnings; or None and a Complaint with the reader's code."""
    try:
        volume = read(path)
    except ImageFileError as error:
        complaints.append(Complaint(case.name, error.code, error.sentence, error.remedy, str(path)))
        return None
    except MedsegError as error:
        complaints.append(Complaint(case.name, "unreadable", str(error), "", str(path)))
        return None
    for number, remark in enumerate(volume.remarks):
        code = "remark" if number == 0 else f"remark-{number + 1}"
        complaints.append(Complaint(case.name, code, remark, "", str(path), severity="warning"))
    return volume


def _read_labels(
    case: Case, path: Path, image: Volume | None, dataset: Dataset, complaints: list[Complaint]
) -> Volume | None:
    """Labels that have a grid of their own are read even where the image can't be."""
    if image is None:
        return None if is_dicom(path) else _read(case, path, read_labels, complaints)
    return _read(case, path, lambda file: read_labels_for(file, image, dataset.labels.values_by_name), complaints)


def _grid_complaints(case: Case, volumes: list[Volume | None]) -> Iterator[Complaint]:
    first, *others = volumes
    names = [path.name for path in case.images]
    for name, path, other in zip(
        [*names[1:], "the labels"], [*case.images[1:], case.labels], others, strict=True
    ):  # the last is the labels
        if first is None or other is None or path is None:
            continue
        try:
            if path == case.labels:
                require_same_grid(first, other, f"Case '{case.name}': {names[0]}", name)
            else:
                on_one_grid(case, first, other, path)
        except GeometryError as error:
            yield _about(case, "grid-mismatch", str(error), "", file=path)


def _is_flat(volume: Volume | None) -> bool:
    return volume is not None and bool((volume.array == volume.array.flat[0]).all())


def _constant(case: Case, path: Path) -> Complaint:
    return _about(
        case,
        "constant-image",
        f"Case '{case.name}': every voxel of {path.name} has the same value.",
        "Look at the file; an export may have failed.",
        "warning",
        path,
    )


def _canonical_spacing(volume: Volume) -> Spacing:
    z, y, x = (volume.spacing[axis] for axis in to_canonical(volume.affine)[0])
    return z, y, x


def _twins(examined: list[_Examined]) -> Iterator[Complaint]:
    """Cases with the same voxels, in the same order or (a mirrored or turned copy) in another."""
    groups: dict[str, list[_Examined]] = {}
    for one in examined:
        if one.unordered:
            groups.setdefault(one.unordered, []).append(one)
    for twins in (group for group in groups.values() if len(group) > 1):
        same = "the same voxels" if len({one.content for one in twins}) == 1 else "the same voxels, mirrored or turned,"
        yield _leak(twins, "duplicate-voxels", f"hold {same} in their images")


def _resaved(examined: list[_Examined]) -> Iterator[Complaint]:
    """Pairs of Cases that look alike though their voxels differ: rescaled, resampled, or saved with losses."""
    for first, second in find_alike([one.thumbnail for one in examined]):
        pair = [examined[first], examined[second]]
        if pair[0].unordered != pair[1].unordered:
            yield _leak(pair, f"same-examination-{pair[1].case.name}", "look like the same examination, saved anew")


def _leak(twins: list[_Examined], code: str, what: str) -> Complaint:
    """An error where a copy is in the test set, else a warning: 'medseg plan' keeps copies in one fold."""
    names = ", ".join(f"'{one.case.name}'" for one in twins)
    if len({one.case.split for one in twins}) > 1:
        sentence, severity = f"The cases {names} {what}, and one of them is in the test set.", "error"
    else:
        sentence, severity = f"The cases {names} {what}.", "warning"
    remedy = "Leave all but one out, or give them the same patient; until then they are kept in one fold."
    return _about(twins[0].case, code, sentence, remedy, severity, twins[0].case.images[0])


def _outliers(examined: list[_Examined]) -> Iterator[Complaint]:
    spaced = [(one.case, one.spacing) for one in examined if one.spacing is not None]
    if len(spaced) < 4:
        return
    median = np.median([spacing for _, spacing in spaced], axis=0)
    for case, spacing in spaced:
        ratio = np.array(spacing) / median
        if ratio.max() >= _OUTLIER or ratio.min() <= 1 / _OUTLIER:
            yield _about(
                case,
                "spacing-outlier",
                f"Case '{case.name}' has spacing {spacing} mm where the median is "
                f"{tuple(round(float(x), 4) for x in median)} (canonical z, y, x).",
                "Look whether its header is right.",
                "warning",
                case.images[0],
            )


def _about(
    case: Case, code: str, sentence: str, remedy: str, severity: str = "error", file: Path | None = None
) -> Complaint:
    return Complaint(
        case.name, code, sentence, remedy, str(file or case.images[0]), "warning" if severity == "warning" else "error"
    )
