"""What became of a study, and of a run over many, as JSON documents.

Knows nothing of how a study is processed. Studies are named by a hash of their UID; no name, date or path of a patient
stands here, so that the documents may leave the hospital's network.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from medseg.arrays import Spacing
from medseg.documents import Document, Record
from medseg.evaluation.measurements import Measurement

Status = Literal["done", "failed"]


class SeriesLine(Record):
    """One series of a study."""

    name: str
    """A hash of its UIDs."""
    modality: str
    slices: int
    spacing: Spacing | None = None
    """Millimetres (z, y, x)."""
    verdict: str
    used_for: str = ""
    """The model's channel; empty for a series that was not used."""
    reason: str = ""
    """Why it was used or not."""


class StudyRecord(Document):
    """``study.json``, beside the results of a study."""

    kind: ClassVar[str] = "dicom_study"

    study: str
    """16 digits of a hash of its UID; the name of its folder."""
    status: Status
    images: str
    """Hash of all its files: a study that gets another image is another one."""
    job: str
    """Hash of the model and of every setting that changes the results."""
    sentence: str = ""
    """Why it failed."""
    series: tuple[SeriesLine, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    remarks: tuple[str, ...] = ()
    warning: str = ""
    """Why the image is unlike those that the model was checked on; also the first of the remarks."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every file in its folder."""
    seconds: float = 0
    finished: str = ""
    """Date and time, UTC."""


class RunReport(Document):
    """``report.json`` of a run over many studies."""

    kind: ClassVar[str] = "dicom_run"

    medseg: str
    """Version."""
    model: str
    checksum: str
    """Of the model."""
    formats: tuple[str, ...]
    started: str
    """Date and time, UTC."""
    finished: str
    seconds: float
    files: dict[str, int]
    """How many files had which outcome."""
    unused: dict[str, int]
    """How many files were left out for which reason."""
    earlier: tuple[str, ...]
    """Studies that an earlier run had finished."""
    studies: tuple[StudyRecord, ...]

    @property
    def failed(self) -> tuple[StudyRecord, ...]:
        return tuple(study for study in self.studies if study.status == "failed")
