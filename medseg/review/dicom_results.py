"""The studies that ``medseg dicom`` has segmented, with the series that each was found in.

Opens documents only. Results do not hold the images; those are looked up by the manifest beside the results, in the
folder where they were or in ``images=DIR``, or are the copies that ``deidentify=true`` has put with the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cases.labels import LabelTable
from medseg.dicom.formats import FILES, IMAGES_NOTE, TABLE
from medseg.dicom.record import SeriesLine, StudyRecord
from medseg.errors import MedsegError
from medseg.images.dicom.manifest import Manifest
from medseg.images.dicom.verdict import SAFE
from medseg.review.case import Finding, ReviewCase

if TYPE_CHECKING:
    from medseg.images.dicom.series import Series

STUDY, MANIFEST = "study.json", "manifest.json"


def is_dicom_output(folder: Path) -> bool:
    """Whether ``medseg dicom`` wrote it."""
    return any(folder.glob(f"*/{STUDY}"))


def cases_of_studies(folder: Path, images: Path | None) -> tuple[list[ReviewCase], list[str]]:
    """The studies that were done and have labels as NIfTI; and a sentence for each one that can't be shown."""
    found, remarks = [], []
    lookup = _Lookup(folder, images)
    for path in sorted(folder.glob(f"*/{STUDY}")):
        record = StudyRecord.load(path)
        case = _case(record, path.parent, lookup)
        if isinstance(case, str):
            remarks.append(case)
        else:
            found.append(case)
    return found, remarks


class _Lookup:
    """Finds a file of a series by the series' name."""

    def __init__(self, folder: Path, images: Path | None) -> None:
        self.images = images or _noted(folder)
        self._files: dict[str, Path] = {}
        self.descriptions: dict[str, str] = {}
        """What the headers call each series, where the results tell."""
        if not (folder / MANIFEST).is_file():
            return
        manifest = Manifest.load(folder / MANIFEST)
        self.descriptions = {line.name: line.description for line in manifest.series}
        if self.images is None:
            return
        for entry in manifest.files:
            for name in entry.series.split():
                self._files.setdefault(name.strip(","), self.images / entry.path)

    def file_of(self, line: SeriesLine, study: Path) -> Path | None:
        """A file of the series; None where it is not to be found."""
        copies = study / "images"
        if copies.is_dir():
            return _among_copies(line, copies)
        if line.name not in self._files and self.images is not None and self.images.is_dir():
            self._files |= {series.name: series.files[0] for series in _series_in(self.images)}
        path = self._files.get(line.name)
        return path if path is not None and path.is_file() else None


def _case(record: StudyRecord, folder: Path, lookup: _Lookup) -> ReviewCase | str:
    labels = folder / FILES["nifti"]
    if not labels.is_file() or not (folder / TABLE).is_file():
        return (
            f"Study {record.study} has no {labels.name} and {TABLE}; 'medseg dicom' writes them for nifti in formats=."
        )
    used = [line for line in record.series if line.used_for]
    files = [lookup.file_of(line, folder) for line in used]
    if not used or None in files:
        return f"The images of study {record.study} are not where they were. Say where with images=DIR."
    finding = Finding(
        "medseg dicom",
        labels,
        LabelTable.load(folder / TABLE),
        intervals={one.structure: one.volume_interval for one in record.measurements if one.volume_interval},
        remarks=(*record.remarks, *(f"{line.name}: {line.verdict}" for line in used if _is_odd(line))),
    )
    return ReviewCase(
        record.study,
        tuple(file for file in files if file),
        tuple(line.used_for for line in used),
        (finding,),
        description="; ".join(filter(None, (lookup.descriptions.get(line.name, "") for line in used))),
    )


def _is_odd(line: SeriesLine) -> bool:
    return line.verdict not in SAFE


def _noted(folder: Path) -> Path | None:
    try:
        return Path(json.loads((folder / IMAGES_NOTE).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _among_copies(line: SeriesLine, copies: Path) -> Path | None:
    """De-identified copies have other UIDs, and so other names: the one series of the same kind, slices and spacing."""
    alike = [
        series.files[0]
        for series in _series_in(copies)
        if (series.modality, len(series.slices), series.spacing) == (line.modality, line.slices, line.spacing)
    ]
    return alike[0] if len(alike) == 1 else None


def _series_in(folder: Path) -> tuple[Series, ...]:
    """By reading headers; none, where they can't be read."""
    from medseg.images.dicom.intake import take_in

    try:
        return take_in(folder).series
    except MedsegError:
        return ()
