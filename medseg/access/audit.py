"""Who did what when: a file of JSON lines that only grows, each line holding the hash of the one before.

Knows nothing of what the events mean. Whoever changes, drops or reorders a line breaks the chain from there on; whoever
can write the file can also cut its end, so its length and last hash belong in a backup elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medseg.errors import MedsegError

_START = "0" * 64


@dataclass(frozen=True)
class Chain:
    """What a check of the file found."""

    lines: int
    last_hash: str
    broken_at: int | None
    """Number of the first line that does not follow from the one before, or None."""


class AuditLog:
    """An open log; safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()

    def record(self, event: str, user: str = "", **details: str | int | float | bool) -> None:
        """Append one line and flush it to the disk. Raises MedsegError when it can't be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, self.path.open("a+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                previous, torn = _hash_of_last(stream.fileno())
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                entry = {"time": now, "event": event, "user": user, **details, "previous": previous}
                stream.write(torn + json.dumps(entry, ensure_ascii=False).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise MedsegError(f"The audit log {self.path} could not be written: {error.strerror or error}.") from error


def check_chain(path: Path) -> Chain:
    """Follow the chain from the first line to the last. Raises MedsegError when the file can't be read."""
    expected, number = _START, 0
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise MedsegError(f"The audit log {path} could not be read: {error.strerror or error}.") from error
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)["previous"]
        except (ValueError, KeyError, TypeError):
            found = None
        if found != expected:
            return Chain(len(lines), expected, number)
        expected = hashlib.sha256(line).hexdigest()
    return Chain(number, expected, None)


def _hash_of_last(descriptor: int) -> tuple[str, bytes]:
    """The hash of the last line, found from the end so that a long log costs nothing; and what must end that line."""
    size, block, tail = os.fstat(descriptor).st_size, 4096, b""
    while size and tail.rstrip(b"\n").count(b"\n") == 0 and len(tail) < size:
        tail = os.pread(descriptor, min(size, len(tail) + block), max(0, size - len(tail) - block))
    lines = tail.splitlines()
    torn = b"\n" if tail and not tail.endswith(b"\n") else b""
    return (hashlib.sha256(lines[-1]).hexdigest() if lines else _START), torn
