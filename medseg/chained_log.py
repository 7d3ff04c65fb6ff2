"""A log that shows when it was changed afterwards: lines of JSON, each with the hash of the line before.

Knows nothing of what is logged. The viewer keeps one of who did what, a federation's coordinator and its sites one each
of what was asked and what left, a site one of what was spent on its patients. A changed, removed or inserted line
breaks the chain; a shortened log lacks the entry that the file beside it names as the last. It shows tampering, and
prevents none: whoever can write both files can begin anew, so the last hash belongs in a backup elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from medseg.errors import MedsegError
from medseg.files import flush, hash_content, write_text

FIRST = "0" * 64
"""What the first entry names as its predecessor."""
_CUT_OFF = "cut-off-half-a-line"
Entry = dict[str, Any]


class DamagedLogError(MedsegError):
    """A log that is not what was written; it takes no further entry."""


@dataclass(frozen=True)
class Verdict:
    """What reading a log has shown."""

    entries: int
    """Sound ones, from the first."""
    head: str
    """Hash of the last sound entry."""
    complaint: str | None = None
    """What is wrong, one sentence; None where the log is whole."""
    half: int | None = None
    """Where half a last line begins, which a crash left; None where there is none."""

    @property
    def is_tampered(self) -> bool:
        """Whether something is wrong that no crash explains."""
        return self.complaint is not None and self.half is None


class ChainedLog:
    """An append-only file of chained entries; threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._known: tuple[tuple[int, int, int], Verdict] | None = None

    @property
    def mark(self) -> Path:
        """The file beside the log that names its last entry."""
        return self.path.with_name(self.path.name + ".head")

    def append(self, what: str, **facts: Any) -> str:
        """Add an entry, on the disk before this returns; gives its hash. Raises what ``held`` raises."""
        with self.held() as log:
            return log.append(what, **facts)

    @contextmanager
    def held(self) -> Iterator[HeldLog]:
        """Keep everybody else from adding to the log until the block ends.

        Raises DamagedLogError where the log is not what was written, and MedsegError where it can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                held = HeldLog(self, stream, self._sound(stream))
                yield held
                self._known = (_state(stream), held.verdict)
        except OSError as error:
            raise MedsegError(f"The log {self.path} could not be written: {error.strerror or error}.") from error

    def verify(self) -> Verdict:
        """Follow the chain from its first entry, and compare its end with the file beside it."""
        last = self._marked()  # read first: whoever appends meanwhile writes it last
        return self._judged(self._bytes(), last)

    def read(self) -> Iterator[Entry]:
        """Every whole entry, the oldest first, whether or not the chain holds."""
        for line in self._bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("sha256"), str):
                yield entry

    def _sound(self, stream: BinaryIO) -> Verdict:
        """The verdict on the log, which is read again only if it is not as this process left it."""
        if self._known is not None and self._known[0] == _state(stream):
            return self._known[1]
        verdict = self._judged(stream.read(), self._marked())
        if verdict.is_tampered:
            advice = f"Keep it and the file {self.mark.name}, elsewhere, for whoever looks into it."
            raise DamagedLogError(f"{verdict.complaint} {advice}")
        return verdict

    def _judged(self, content: bytes, last: Entry | None) -> Verdict:
        verdict = _follow(content)
        if not verdict.is_tampered:
            shortened = _end_complaint(content, verdict, last)
            verdict = Verdict(verdict.entries, verdict.head, shortened) if shortened else verdict
        told = None if verdict.complaint is None else f"{self.path}: {verdict.complaint}"
        return Verdict(verdict.entries, verdict.head, told, verdict.half)

    def _bytes(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def _marked(self) -> Entry | None:
        try:
            last = json.loads(self.mark.read_text(encoding="utf-8"))
            return {"entry": int(last["entry"]), "sha256": str(last["sha256"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return {"entry": 2**62, "sha256": ""}  # a damaged mark is told like a shortened log


class HeldLog:
    """A log to which nobody else adds; made by ``ChainedLog.held``."""

    def __init__(self, log: ChainedLog, stream: BinaryIO, verdict: Verdict) -> None:
        self._log, self._stream, self.verdict = log, stream, verdict

    def append(self, what: str, **facts: Any) -> str:
        """Add an entry, on the disk before this returns; gives its hash."""
        fresh = not self.verdict.entries
        if self.verdict.half is not None:  # cut off, and said so
            self._stream.truncate(self.verdict.half)
            self._write(_CUT_OFF)
        self._write(what, **facts)
        if fresh:
            flush(self._log.path.parent)
        last = {"entry": self.verdict.entries - 1, "sha256": self.verdict.head}
        write_text(self._log.mark, json.dumps(last) + "\n")
        return self.verdict.head

    def _write(self, what: str, **facts: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        number, previous = self.verdict.entries, self.verdict.head
        entry = {"entry": number, "at": now, "what": what, **facts, "previous": previous}
        entry["sha256"] = hash_content(entry)
        self._stream.write(json.dumps(entry, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.verdict = Verdict(number + 1, entry["sha256"])


def _state(stream: BinaryIO) -> tuple[int, int, int]:
    """What changes when a file is changed by another."""
    found = os.fstat(stream.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


def _follow(content: bytes) -> Verdict:
    head, number, size = FIRST, 0, 0
    lines = content.split(b"\n")
    for line in lines[:-1]:
        complaint = _complaint(line, number, head)
        if complaint:
            return Verdict(number, head, complaint)
        head, number, size = json.loads(line)["sha256"], number + 1, size + len(line) + 1
    if lines[-1]:
        return Verdict(number, head, f"line {number + 1} is cut off, as by a crash while it was written.", size)
    return Verdict(number, head)


def _complaint(line: bytes, number: int, head: str) -> str | None:
    try:
        entry = json.loads(line)
        claimed = entry.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"line {number + 1} is no entry. The log was tampered with, or an earlier medseg wrote it."
    if entry.get("previous") != head or entry.get("entry") != number:
        return f"line {number + 1} does not follow the line before it. The log was tampered with."
    if hash_content(entry) != claimed:
        return f"line {number + 1} was changed after it was written. The log was tampered with."
    return None


def _end_complaint(content: bytes, verdict: Verdict, last: Entry | None) -> str | None:
    """What is wrong with the end of a chain that holds; a crash may have left its mark behind the last entries."""
    if last is None:
        crashed = verdict.entries <= 2  # half a line that was cut off, and the first entry
        return None if crashed else "the file beside it, which names its last entry, is missing."
    if last["entry"] < verdict.entries and json.loads(content.split(b"\n")[last["entry"]])["sha256"] == last["sha256"]:
        return None
    return f"entry {last['entry']}, the last that was written, is missing or another one. The log was shortened."
