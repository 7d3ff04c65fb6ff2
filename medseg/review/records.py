"""What reviewers said of Cases: an append-only table in an embedded database, and as CSV.

Knows nothing of pages. A review is never changed or deleted (triggers in the database refuse it); the last one of a
Case is its status. The fields are those of MONAI Label's reviews: status, level, comment, by whom, when.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from medseg.documents import Record
from medseg.errors import MedsegError
from medseg.files import written_whole

Status = Literal["accepted", "rejected", "needs_edit"]
STATUSES: tuple[Status, ...] = get_args(Status)
Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
_LONGEST = 4000
_TABLE = """
CREATE TABLE IF NOT EXISTS reviews (
  number INTEGER PRIMARY KEY, case_name TEXT NOT NULL, finding TEXT NOT NULL, labels TEXT NOT NULL,
  status TEXT NOT NULL, difficulty TEXT NOT NULL, comment TEXT NOT NULL, reviewer TEXT NOT NULL, time TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON reviews BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON reviews BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
COLUMNS = ("number", "case", "finding", "labels", "status", "difficulty", "comment", "reviewer", "time")


class Review(Record):
    """One statement of one reviewer on one label map of one Case."""

    case: str
    finding: str
    """Which label map was looked at."""
    labels: str
    """SHA-256 of its file, so that nobody has to guess later what was accepted."""
    status: Status
    difficulty: Difficulty
    comment: str = ""
    reviewer: str
    time: str = ""
    """Date and time, UTC."""
    number: int = 0
    """In the order of writing."""


class ReviewLog:
    """The reviews in one file; several processes may write it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, review: Review) -> Review:
        """Append a review with the time of now. Raises MedsegError without a reviewer, or when the disk refuses."""
        if not review.reviewer.strip():
            raise MedsegError("A review needs the name of its reviewer. Enter yours.")
        if len(review.comment) > _LONGEST or len(review.reviewer) > _LONGEST:
            raise MedsegError(f"A comment has at most {_LONGEST} characters. Shorten it.")
        written = review.model_copy(update={"time": datetime.now(UTC).isoformat(timespec="seconds")})
        row = [getattr(written, name) for name in COLUMNS[1:]]
        with self._open() as database:
            marks = ", ".join("?" * len(row))
            cursor = database.execute(f"INSERT INTO reviews VALUES (NULL, {marks})", row)  # noqa: S608 (question marks)
            return written.model_copy(update={"number": cursor.lastrowid})

    def all(self, case: str | None = None) -> list[Review]:
        """Every review, or those of one Case, in the order of writing."""
        if not self._path.is_file():
            return []
        with self._open() as database:
            where, values = ("", ()) if case is None else (" WHERE case_name = ?", (case,))
            rows = database.execute(f"SELECT * FROM reviews{where} ORDER BY number", values)  # noqa: S608 (as above)
            return [Review.model_validate(dict(zip(COLUMNS, row, strict=True))) for row in rows]

    def last(self) -> dict[str, Review]:
        """The last review of each Case."""
        return {review.case: review for review in self.all()}

    def export(self, path: Path) -> None:
        """All reviews as CSV, written whole."""
        with written_whole(path) as temporary:
            temporary.write_text(self.csv(), encoding="utf-8")

    def csv(self) -> str:
        """All reviews as CSV. What a spreadsheet would take for a formula gets an apostrophe before it."""
        import io

        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_harmless(getattr(review, name)) for name in COLUMNS] for review in self.all())
        return stream.getvalue()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=10)
            try:
                with database:
                    database.executescript(_TABLE)
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, OSError) as error:
            raise MedsegError(f"The reviews in {self._path} can't be used: {error}. Nothing was changed.") from error


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
