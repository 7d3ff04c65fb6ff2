"""A log that shows when it was changed afterwards: lines of JSON, each with the hash of the line before.

Knows nothing of what is logged. Both ends keep one: a site of what it was asked and what left, the coordinator of what
it asked and what came. A changed, removed or inserted line breaks the chain; a shortened log lacks the entry that the
file beside it, and the other end's log, name as the last. It shows tampering, and prevents none.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.errors import SiteError
from medseg.files import hash_content, write_text

FIRST = "0" * 64
"""What the first entry names as its predecessor."""


@dataclass(frozen=True)
class Verdict:
    """What reading a log has shown."""

    entries: int
    head: str
    """Hash of the last sound entry."""
    complaint: str | None = None
    """What is wrong with the chain, one sentence; None where it is whole."""


class AuditLog:
    """An append-only file of chained entries; processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def mark(self) -> Path:
        """The file beside the log that names its last entry."""
        return self.path.with_suffix(".head.json")

    def append(self, what: str, **facts: Any) -> str:
        """Add an entry, on the disk before this returns; gives its hash. Raises SiteError if the chain is broken."""
        with self._locked() as stream:
            verdict, half = self._judge(stream.read())
            if half is not None:  # half a line, which a crash left: cut off, and said so
                stream.truncate(half)
                head = self._write(stream, verdict.entries, verdict.head, "cut-off-half-a-line", {})
                verdict = Verdict(verdict.entries + 1, head)
            if verdict.complaint is not None:
                raise SiteError("audit-log-damaged")
            head = self._write(stream, verdict.entries, verdict.head, what, facts)
            write_text(self.mark, json.dumps({"entry": verdict.entries, "sha256": head}) + "\n")
            return head

    def verify(self) -> Verdict:
        """Follow the chain from its first entry, and compare its end with the file beside it."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        verdict, _ = self._judge(text)
        told = None if verdict.complaint is None else f"{self.path}: {verdict.complaint}"
        return Verdict(verdict.entries, verdict.head, told)

    def _judge(self, text: str) -> tuple[Verdict, int | None]:
        """Judge the chain and its end; the second value is where half a last line begins, if there is one."""
        verdict, half = _follow(text)
        last = self._marked()
        if last is None or (verdict.complaint is not None and half is None):
            return verdict, half
        if last["entry"] < verdict.entries and json.loads(text.split("\n")[last["entry"]])["sha256"] == last["sha256"]:
            return verdict, half
        told = f"entry {last['entry']}, the last that was written, is missing or another one. The log was shortened."
        return Verdict(verdict.entries, verdict.head, told), None

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole entry, the oldest first, whether or not the chain holds."""
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict) and isinstance(entry.get("sha256"), str):
                    yield entry

    def _marked(self) -> dict[str, Any] | None:
        try:
            last = json.loads(self.mark.read_text(encoding="utf-8"))
            return {"entry": int(last["entry"]), "sha256": str(last["sha256"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return {"entry": 2**62, "sha256": ""}  # a damaged mark is told like a shortened log

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "r+", encoding="utf-8", errors="replace") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream

    @staticmethod
    def _write(stream: Any, number: int, previous: str, what: str, facts: Mapping[str, Any]) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"entry": number, "at": now, "what": what, **facts, "previous": previous}
        entry["sha256"] = hash_content(entry)
        stream.write(json.dumps(entry, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
        return str(entry["sha256"])


def _follow(text: str) -> tuple[Verdict, int | None]:
    """Judge the chain; the second value is where half a last line begins, None where there is none."""
    head, number, size = FIRST, 0, 0
    lines = text.split("\n")
    for line in lines[:-1]:
        complaint = _complaint(line, number, head)
        if complaint:
            return Verdict(number, head, complaint), None
        head, number, size = json.loads(line)["sha256"], number + 1, size + len(line.encode()) + 1
    if lines[-1]:
        return Verdict(number, head, f"line {number + 1} is cut off, as by a crash while it was written."), size
    return Verdict(number, head), None


def _complaint(line: str, number: int, head: str) -> str | None:
    try:
        entry = json.loads(line)
        claimed = entry.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError):
        return f"line {number + 1} is no entry. The log was tampered with."
    if entry.get("previous") != head or entry.get("entry") != number:
        return f"line {number + 1} does not follow the line before it. The log was tampered with."
    if hash_content(entry) != claimed:
        return f"line {number + 1} was changed after it was written. The log was tampered with."
    return None
