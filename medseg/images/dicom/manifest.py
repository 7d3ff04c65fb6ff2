"""What became of every file of a DICOM folder, as a JSON document.

Knows no pixels. It names files by their paths in the folder and series by their UIDs; patients' names are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from medseg.arrays import Spacing, Triple
from medseg.documents import Document, Record
from medseg.images.dicom.verdict import Verdict

Outcome = Literal["used", "labels", "refused", "skipped", "unreadable"]


class FileEntry(Record):
    """One file, one outcome."""

    path: str
    """In the folder."""
    outcome: Outcome
    """used: a slice of an accepted series; refused: of another; labels: a segmentation or structure set."""
    reason: str = ""
    """Why it was not used."""
    series: str = ""
    """Name of the series in this document that it belongs to; several where its frames do."""


class SeriesEntry(Record):
    """One volume that was found."""

    name: str
    """What its outputs are called: a hash of its UIDs and part."""
    study_uid: str
    series_uid: str
    part: str = ""
    """Which volume of its series, where it holds several."""
    modality: str
    description: str
    verdict: Verdict
    accepted: bool
    detail: str = ""
    """Of the verdict."""
    slices: int
    rows: int
    columns: int
    shape: Triple | None = None
    """Of its volume (z, y, x)."""
    spacing: Spacing | None = None
    """Of its volume, mm (z, y, x)."""
    flags: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    warning: str = ""
    """Where it was predicted: why its image is unlike those that the model was checked on."""


class Passed(Record):
    """A series that was not taken for a channel."""

    series: str
    reason: str


class ChannelChoice(Record):
    """The series of a study that is a channel of a model."""

    channel: str
    series: str
    runners_up: tuple[Passed, ...] = ()
    """Fitting ones, in the order in which they would have been taken."""
    unfit: tuple[Passed, ...] = ()


class StudyChoice(Record):
    """What was chosen in one study, or why nothing was."""

    study_uid: str
    channels: tuple[ChannelChoice, ...] = ()
    problem: str = ""


class Manifest(Document):
    """Every file exactly once."""

    kind: ClassVar[str] = "dicom_manifest"

    files: tuple[FileEntry, ...]
    series: tuple[SeriesEntry, ...]
    choices: tuple[StudyChoice, ...] = ()
    """Where series were chosen for the channels of a model."""

    def warned(self, warnings: Mapping[str, str]) -> Manifest:
        """The same with what is to be said of the images of series, by the name of a case's first series."""
        told = dict(warnings)
        for channels in (choice.channels for choice in self.choices):
            told |= {one.series: warnings[channels[0].series] for one in channels if channels[0].series in warnings}
        series = (one.model_copy(update={"warning": told.get(one.name, "")}) for one in self.series)
        return self.model_copy(update={"series": tuple(series)})
