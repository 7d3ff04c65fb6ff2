"""The worklist: Cases in the order in which somebody should look at them, filtered by words and by status.

Knows nothing of pages. Images unlike those that the model has learned from come first, then the most urgent by how
unsure it was, then those that nobody has asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.review.case import ReviewCase
from medseg.review.records import Review, Status

State = Literal["open"] | Status
"""open: nobody has reviewed it."""
Order = Literal["urgency", "name"]


@dataclass(frozen=True)
class Row:
    """One line of the worklist."""

    case: ReviewCase
    review: Review | None = None

    @property
    def status(self) -> State:
        return "open" if self.review is None else self.review.status

    @property
    def urgency(self) -> float | None:
        return self.case.urgency

    def says(self, words: Sequence[str]) -> bool:
        """Whether every word stands somewhere in its name, description, comment or reviewer."""
        review = self.review
        told = (review.comment, review.reviewer, review.status) if review is not None else ()
        text = " ".join((self.case.name, self.case.description, *told)).casefold()
        return all(word.casefold() in text for word in words)


def worklist(
    cases: Sequence[ReviewCase],
    reviews: Mapping[str, Review],
    search: str = "",
    status: State | None = None,
    order: Order = "urgency",
) -> list[Row]:
    """The lines that match, in order."""
    rows = [Row(case, reviews.get(case.name)) for case in cases]
    found = [row for row in rows if row.says(search.split()) and status in (None, row.status)]
    if order == "name":
        return sorted(found, key=lambda row: row.case.name)
    return sorted(found, key=_doubt)


def _doubt(row: Row) -> tuple[bool, bool, float, bool, str]:
    """Unusual images first; what a model has segmented, but nobody has asked how surely, before what has nothing."""
    return not row.case.is_unusual, row.urgency is None, -(row.urgency or 0.0), not row.case.findings, row.case.name


def neighbour(rows: Sequence[Row], name: str, step: int) -> str:
    """The case ``step`` lines further, or the same at an end of the list."""
    names = [row.case.name for row in rows]
    if name not in names:
        return names[0] if names else name
    return names[min(max(names.index(name) + step, 0), len(names) - 1)]
