"""One study, from its series to a folder of results.

Knows nothing of other studies, of archives or of the command line. What is told of a study never holds a patient's
name or a path: unforeseen errors are told by their kind alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from medseg.dicom.deidentify import Pseudonyms, deidentified
from medseg.dicom.formats import Format
from medseg.dicom.origin import Origin
from medseg.dicom.outputs import Found, write_outputs
from medseg.dicom.record import SeriesLine, StudyRecord
from medseg.errors import GeometryError, MedsegError
from medseg.evaluation.measurements import VolumeInterval
from medseg.files import hash_content, hash_file
from medseg.images.dicom.intake import Intake
from medseg.images.dicom.series import Series
from medseg.images.volume import Volume
from medseg.inference.entropy import EntropyOfAverage
from medseg.inference.model import Networks
from medseg.inference.options import Accumulator, Options
from medseg.inference.predict import Prediction, predict_judged, predict_watched
from medseg.preprocessing.grid import Grid
from medseg.progress import Progress
from medseg.uncertainty.case import Trust
from medseg.uncertainty.judge import ImageJudge
from medseg.uncertainty.volumes import VolumesOfAverage

RECORD = "study.json"
_COPIES = "images"


@dataclass(frozen=True, eq=False)
class Study:
    """The series of one StudyInstanceUID."""

    uid: str
    series: tuple[Series, ...]
    """Accepted ones."""
    refused: tuple[Series, ...] = ()

    @property
    def files(self) -> list[Path]:
        """Every image, each once."""
        return sorted({path for one in (*self.series, *self.refused) for path in one.files})

    def content(self) -> str:
        """Hash of what its files hold, whatever they are called."""
        return hash_content(sorted(hash_file(path) for path in self.files))


def studies_of(intake: Intake) -> list[Study]:
    """The studies of a folder, in the order of their UIDs."""
    uids = sorted({one.study_uid for one in (*intake.series, *intake.refused)})
    return [
        Study(
            uid,
            tuple(one for one in intake.series if one.study_uid == uid),
            tuple(one for one in intake.refused if one.study_uid == uid),
        )
        for uid in uids
    ]


@dataclass(frozen=True, eq=False)
class Choice:
    """Which series become the channels of the model."""

    reference: Series
    """On whose frames results are written."""
    read: Callable[[], Volume]
    """The image (C, Z, Y, X) on the reference's grid."""
    lines: tuple[SeriesLine, ...]
    """Every series of the study, with the reason why it was chosen or not."""
    used: tuple[Series, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Job:
    """What is done with every study."""

    networks: Networks
    options: Options
    origin: Origin
    formats: tuple[Format, ...]
    choose: Callable[[Study], Choice]
    rules: str = ""
    """Hash of the rules by which series are chosen."""
    kind: Literal["BINARY", "LABELMAP"] = "BINARY"
    pseudonyms: Pseudonyms | None = None
    """Where results and copies of the images shall not identify the patient."""
    trust: Trust | None = None
    """Where the model was calibrated."""

    @property
    def identity(self) -> str:
        """Hash of the model and of all that changes the results."""
        options, trust = self.options, self.trust
        known: dict[str, list[object]] = {}
        if trust is not None and trust.calibration is not None:
            known = {"calibration": [trust.calibration.content_hash(), trust.rate]}
        if isinstance(options.judge, ImageJudge):
            known["images"] = [options.judge.known.content_hash(), options.judge.false_alarms]
        return hash_content(
            {
                "model": self.networks.identity,
                "options": [options.mirror, options.step, options.combine, options.postprocess],
                "formats": sorted(self.formats),
                "kind": self.kind,
                "rules": self.rules,
                "deidentified": self.pseudonyms is not None,
                **known,
            }
        )

    def name(self, study: Study) -> str:
        """What a study's folder is called: nothing that is in a header can become a path."""
        uid = study.uid if self.pseudonyms is None else self.pseudonyms.uid(study.uid)
        return hash_content(["study", uid])[:16]


def process_study(study: Study, content: str, job: Job, folder: Path, progress: Progress) -> StudyRecord:
    """Fill ``folder`` with results and their record. Raises MedsegError where the study can't be processed."""
    started = time.monotonic()
    name = job.name(study)
    choice = job.choose(study)
    headers = _headers(choice, job, folder)
    image = replace(choice.read(), header=None)
    predicted, entropy, intervals = _predict(image, job, name, progress)
    channels = tuple(channel.name for channel in job.networks.plan.channels)
    found = Found(
        choice.reference, headers, image, channels, predicted.indices, job.networks.labels, job.origin, entropy,
        intervals, marked=job.pseudonyms is not None, warnings=predicted.remarks,
    )  # fmt: skip
    measured, remarks = write_outputs(folder, found, job.formats, job.kind)
    record = StudyRecord(
        study=name,
        status="done",
        images=content,
        job=job.identity,
        series=choice.lines,
        measurements=tuple(measured),
        warning=(predicted.judged.warning if predicted.judged is not None else None) or "",
        remarks=tuple(dict.fromkeys((*predicted.remarks, *choice.remarks, *image.remarks, *remarks))),
        files={str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()},
        seconds=round(time.monotonic() - started, 3),
        finished=now(),
    )
    record.save(folder / RECORD)
    return record


def _predict(
    image: Volume, job: Job, name: str, progress: Progress
) -> tuple[Prediction, NDArray[np.float32] | None, dict[str, VolumeInterval]]:
    """What was found, its entropy where it is written, and intervals of volumes where the model was calibrated."""
    networks, trust = job.networks, job.trust
    if "pmap" not in job.formats and trust is None:
        return predict_judged(image, networks, job.options, name, progress), None, {}
    entropies: list[EntropyOfAverage] = []
    volumes: list[VolumesOfAverage] = []

    def accumulators(grid: Grid) -> Sequence[Accumulator]:
        if "pmap" in job.formats:
            entropies.append(EntropyOfAverage(grid, networks.labels))
        if trust is not None:
            volumes.append(VolumesOfAverage(grid, trust))
        return [*entropies, *volumes]

    predicted = predict_watched(image, networks, job.options, accumulators, name, progress)
    return predicted, entropies[0].entropy if entropies else None, volumes[0].intervals() if volumes else {}


def _headers(choice: Choice, job: Job, folder: Path) -> list[Dataset]:
    """Headers of the reference series; where patients shall not be identified, new ones, whose images are written."""
    if job.pseudonyms is None:
        return choice.reference.read_headers()
    flagged = [one for one in choice.used if {"burned_in", "secondary_capture"} & set(one.flags)]
    if flagged:
        raise GeometryError(
            "Images of the study may have text burned into their pixels, which deidentify=true can't remove. Choose "
            "another series, or leave the study out."
        )
    (folder / _COPIES).mkdir()
    headers: list[Dataset] = []
    for number, path in enumerate(dict.fromkeys(path for one in choice.used for path in one.files), start=1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values of real headers were judged when the folder was read
            image = deidentified(pydicom.dcmread(path, force=True), job.pseudonyms)
            image.save_as(folder / _COPIES / f"{number:05d}.dcm")
        if path in choice.reference.files:
            for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
                image.pop(keyword, None)
            headers.append(image)
    return headers


def failed_record(study: Study, content: str, job: Job, error: Exception, seconds: float) -> StudyRecord:
    """A record of a study that could not be processed, without paths of its files."""
    return StudyRecord(
        study=job.name(study),
        status="failed",
        images=content,
        job=job.identity,
        sentence=_told(error, study.files),
        series=lines_of(study),
        seconds=round(seconds, 3),
        finished=now(),
    )


def lines_of(
    study: Study, used: Iterable[tuple[Series, str]] = (), reasons: Mapping[str, str] | None = None
) -> tuple[SeriesLine, ...]:
    """One line for each series of a study: ``used`` ones became a channel, ``reasons`` tell why others did not."""
    channels = {one.name: channel for one, channel in used}
    return tuple(
        SeriesLine(
            name=one.name,
            modality=one.modality,
            slices=len(one.slices),
            spacing=one.spacing,
            verdict=str(one.verdict),
            used_for=channels.get(one.name, ""),
            reason=one.geometry.detail or (reasons or {}).get(one.name, ""),
        )
        for one in (*study.series, *study.refused)
    )


def _told(error: Exception, files: Sequence[Path]) -> str:
    if not isinstance(error, MedsegError):
        return f"{type(error).__name__}, which medseg did not foresee. Process this study alone to see more."
    sentence = str(error)
    for number, path in enumerate(files, start=1):
        sentence = sentence.replace(str(path), f"file {number}")
    return sentence


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
