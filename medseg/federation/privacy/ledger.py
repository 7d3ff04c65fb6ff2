"""What has been spent on a site's patients: append-only, hash-chained, written before the spending, never refunded.

Lies at the hospital and knows nothing of networks. All rounds of all runs add up, since they see the same patients; a
charge that would pass the site's budget is refused before a patient's image is read. A second small file holds the last
line's number and hash, so that cutting off the end is noticed as well; whoever can write both can of course begin anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import PositiveInt, ValidationError

from medseg.documents import Record
from medseg.errors import SiteError
from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp
from medseg.files import flush, write_text

LEDGER = "privacy_ledger.jsonl"
_HEAD = ".head"
_FIRST = "0" * 64


class Charge(Record):
    """What one round is allowed to spend."""

    run: str
    round: int
    purpose: str
    """What for: ``train``, ``fingerprint``."""
    dataset: str
    """Which patients, by the hash of their names."""
    patients: PositiveInt
    mechanism: Mechanism


class Entry(Record):
    """One line of the ledger."""

    number: PositiveInt
    time: str
    charge: Charge
    epsilon: float
    """Of everything up to and with this line, by RDP at ``delta``."""
    delta: float
    before: str
    """Hash of the line before."""


class Ledger:
    """The ledger of one site."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = path.with_name(path.name + _HEAD)

    def charge(self, charge: Charge, budget: float, delta: float) -> Entry:
        """Write the charge to the disk and give the new state; only then may the patients be looked at.

        Raises SiteError: ``privacy-budget-spent`` where epsilon would pass the budget, ``privacy-ledger-damaged`` where
        the ledger is not what was written.
        """
        with self._locked():
            entries = self._read()
            epsilon = epsilon_rdp([*(e.charge.mechanism for e in entries), charge.mechanism], delta)
            if not epsilon <= budget:  # whatever is no number is too much as well
                raise SiteError("privacy-budget-spent")
            entry = Entry(
                number=len(entries) + 1,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                charge=charge,
                epsilon=epsilon,
                delta=delta,
                before=_hash(entries[-1]) if entries else _FIRST,
            )
            self._append(entry)
        return entry

    def entries(self) -> list[Entry]:
        """Every charge so far. Raises SiteError where the ledger is not what was written."""
        with self._locked():
            return self._read()

    def spent(self, delta: float, run: str | None = None) -> float:
        """Epsilon so far, of one run or of all of them together, by RDP."""
        return epsilon_rdp([e.charge.mechanism for e in self.entries() if run in (None, e.charge.run)], delta)

    def _append(self, entry: Entry) -> None:
        fresh = not self.path.exists()
        with self.path.open("ab") as stream:
            stream.write(_line(entry))
            stream.flush()
            os.fsync(stream.fileno())
        if fresh:
            flush(self.path.parent)
        write_text(self._head, f"{entry.number} {_hash(entry)}\n")

    def _read(self) -> list[Entry]:
        lines = self._whole_lines()
        try:
            entries = [Entry.model_validate_json(line) for line in lines]
        except ValidationError:
            raise SiteError("privacy-ledger-damaged") from None
        before = _FIRST
        for number, (entry, line) in enumerate(zip(entries, lines, strict=True), start=1):
            if entry.number != number or entry.before != before or _line(entry) != line:
                raise SiteError("privacy-ledger-damaged")
            before = _hash(entry)
        self._require_end(entries)
        return entries

    def _whole_lines(self) -> list[bytes]:
        """A last line without its end was being written when the process died: what it would have paid for never ran,
        since ``charge`` had not returned."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            whole = sum(map(len, lines[:-1]))
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
            return lines[:-1]
        return lines

    def _require_end(self, entries: list[Entry]) -> None:
        """The last line is the noted one, or one later: the process may have died between the line and the note."""
        if not self._head.exists():
            noted, hashed = 0, ""
        else:
            number, _, hashed = self._head.read_text(encoding="utf-8").strip().partition(" ")
            noted = int(number) if number.isdecimal() else -1
        if not 0 <= len(entries) - noted <= 1 or (noted and _hash(entries[noted - 1]) != hashed):
            raise SiteError("privacy-ledger-damaged")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(self.path.name + ".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # released with the file, also when the process dies
            yield


def _line(entry: Entry) -> bytes:
    return json.dumps(entry.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _hash(entry: Entry) -> str:
    return hashlib.sha256(_line(entry)).hexdigest()
