"""Many studies, one after the other: each exactly once, whatever happens in between.

A study's folder appears whole or not at all; what it was made from and by which model stands in it, so a second start
does only what is missing. One study at a time is in memory and on the disk in parts. Two processes can't share an
output folder.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medseg import __version__
from medseg.dicom.record import RunReport, StudyRecord
from medseg.dicom.run_page import write_run_page
from medseg.dicom.study import RECORD, Job, Study, failed_record, now, process_study
from medseg.errors import MedsegError
from medseg.files import folder_written_whole, require_free_space
from medseg.images.dicom.manifest import FileEntry
from medseg.progress import Progress, Silent

STATE = ".state"
_BYTES_PER_VOXEL = 8
"""What the results of a study take at most: labels, segments, entropy, and copies of its images."""


@contextmanager
def locked(output: Path) -> Iterator[Path]:
    """The output folder's own state, for this process alone; what a killed one has left in parts is removed.

    Raises MedsegError where another process is at work there.
    """
    state = output / STATE
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MedsegError(
                f"Another process is writing to {output}. Wait for it, or choose another folder."
            ) from None
        for left in output.glob(".partial-*"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        yield state


@dataclass
class Batch:
    """A run over studies, and what became of them so far."""

    output: Path
    job: Job
    on_done: Callable[[Path, StudyRecord], None] | None = None
    """Called with the folder of each study that was finished, now or earlier, such as to send it."""
    records: dict[str, StudyRecord] = field(default_factory=dict)
    earlier: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    started: str = field(default_factory=now)
    begun: float = field(default_factory=time.monotonic)

    def count_files(self, entries: Sequence[FileEntry]) -> None:
        """Remember outcomes for the report, without names of files."""
        self.files.update(entry.outcome for entry in entries)
        self.unused.update(entry.reason for entry in entries if entry.outcome not in ("used", "labels"))

    def run(self, studies: Sequence[Study], progress: Progress | None = None, alone: bool = False) -> None:
        """Process what is not done yet; a study that fails is recorded, and the others go on.

        A study that is ``alone`` raises an error that medseg did not foresee, so that its traceback is seen.
        """
        progress = progress or Silent()
        progress.start("Studies", len(studies))
        for study in studies:
            record = self._one(study, alone)
            self.records[record.study] = record
            failed = sum(one.status == "failed" for one in self.records.values())
            progress.advance(failed=str(failed))
            if record.status == "failed":
                progress.note(f"Study {record.study}: {record.sentence}")
        progress.finish()

    def _one(self, study: Study, alone: bool) -> StudyRecord:
        started, content = time.monotonic(), ""
        name = self.job.name(study)
        folder = self.output / name
        try:
            content = study.content()
            record = finished_record(folder, content, self.job)
            if record is None:
                needed = _BYTES_PER_VOXEL * max((one.voxels for one in study.series), default=0)
                require_free_space(self.output, needed, "A study's results")
                with folder_written_whole(folder) as partial:
                    record = process_study(study, content, self.job, partial, Silent())
            else:
                self.earlier.append(name)
            if self.on_done is not None:
                self.on_done(folder, record)
        except Exception as error:
            if alone and not isinstance(error, MedsegError):
                raise
            return failed_record(study, content, self.job, error, time.monotonic() - started)
        return record

    def is_finished(self, record: StudyRecord) -> bool:
        """Whether the results of a study are there, although something after them may have failed."""
        return finished_record(self.output / record.study, record.images, self.job) is not None

    def report(self) -> RunReport:
        """Write ``report.json`` and ``report.html``."""
        report = RunReport(
            medseg=__version__,
            model=self.job.origin.model,
            checksum=self.job.origin.checksum,
            formats=self.job.formats,
            started=self.started,
            finished=now(),
            seconds=round(time.monotonic() - self.begun, 2),
            files=dict(self.files),
            unused=dict(self.unused),
            earlier=tuple(self.earlier),
            studies=tuple(self.records[name] for name in sorted(self.records)),
        )
        report.save(self.output / "report.json")
        write_run_page(self.output / "report.html", report)
        return report


def finished_record(folder: Path, content: str, job: Job) -> StudyRecord | None:
    """The record of a study that was finished with the same files, model and settings; None otherwise."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = StudyRecord.load(folder / RECORD)
    except MedsegError:
        return None  # of an older medseg: made anew
    return record if (record.images, record.job) == (content, job.identity) else None
