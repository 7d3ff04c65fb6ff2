"""Studies that arrive while the program runs: each is processed when it has settled, and its results are sent.

Knows neither settings nor models: a Batch does the work. Ends when it is told to, between two studies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from medseg.dicom.archive import Archive
from medseg.dicom.batch import Batch
from medseg.dicom.record import StudyRecord
from medseg.dicom.study import studies_of
from medseg.dicom.watch import Arrivals, prune
from medseg.files import hash_content, write_text
from medseg.images.dicom.intake import take_in_paths
from medseg.images.dicom.verdict import Verdict

_LONGEST_PAUSE_SECONDS = 5.0
_RETRY_SECONDS = 300.0
_REPORTED = 500
"""The report of a service that runs for months shows the last so many studies."""
_SENT = "sent.txt"


@dataclass
class Service:
    """A folder that is watched, and the batch its studies go to."""

    folder: Path
    batch: Batch
    settle_seconds: float
    allow: Collection[Verdict] = ()
    keep_bytes: int | None = None
    """What the folder may hold before studies that were processed are deleted; None where it is not ours to delete."""
    tell: Callable[[str], None] = lambda _: None
    _processed: set[str] = field(default_factory=set)
    """Names of folders of studies that were received and processed."""
    _again: dict[str, tuple[float, list[Path]]] = field(default_factory=dict)
    """Studies whose results could not be sent, and when to try again."""

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Go on until ``stop`` says so."""
        arrivals = Arrivals(self.folder, self.settle_seconds)
        while not stop():
            due = [(uid, files) for uid, (when, files) in self._again.items() if when <= time.monotonic()]
            for uid, files in (*arrivals.look(), *due):
                self._process(uid, files)
                if stop():
                    return
            if self.keep_bytes is not None:
                prune(self.folder, self.keep_bytes, lambda inner: inner.name not in self._processed)
            time.sleep(min(_LONGEST_PAUSE_SECONDS, max(self.settle_seconds / 4, 0.05)))

    def _process(self, uid: str, files: list[Path]) -> None:
        self._again.pop(uid, None)
        intake = take_in_paths(self.folder, files, self.allow)
        self.batch.count_files(intake.files)
        studies = [study for study in studies_of(intake) if study.uid == uid]
        self.batch.run(studies)
        for study in studies:
            record = self.batch.records[self.batch.job.name(study)]
            note = record.sentence or f"{len(record.measurements)} structure(s)"
            self.tell(f"{record.finished}  study {record.study}: {record.status}, {record.seconds:.1f} s; {note}")
            if record.status == "failed" and self.batch.is_finished(record):
                self._again[uid] = (time.monotonic() + _RETRY_SECONDS, files)
            else:
                self._processed.add(hash_content(uid)[:16])
        while len(self.batch.records) > _REPORTED:
            self.batch.records.pop(next(iter(self.batch.records)))
        self.batch.report()


def sending_to(archive: Archive, address: str) -> Callable[[Path, StudyRecord], None]:
    """What sends the DICOM results of a study, unless they were sent to that address before."""

    def send(folder: Path, record: StudyRecord) -> None:
        proof, mark = hash_content([address, record.files]), folder / _SENT
        if mark.is_file() and mark.read_text(encoding="utf-8").strip() == proof:
            return
        files = [folder / name for name in sorted(record.files) if name.endswith(".dcm") and "/" not in name]
        if files:
            archive.send(files)
        write_text(mark, proof + "\n")

    return send
