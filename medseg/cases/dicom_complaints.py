"""What is said of DICOM series that can't be Cases.

Knows no files; it gets Series and writes sentences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.errors import Complaint

if TYPE_CHECKING:
    from medseg.images.dicom.series import Series


def is_scattered(series: Series) -> bool:
    """Whether its files lie in several folders, so that one of them can not stand for all."""
    return len({path.parent for path in series.files}) > 1


def scattered_files(series: Series) -> Complaint:
    """About such a series."""
    sentence = f"The files of series {series.uid} lie in several folders, such as {series.files[0].parent}."
    return Complaint(series.name, "scattered-series", sentence, "Put them into one, or use 'medseg convert' first.")


def refused_series(series: Series) -> Complaint:
    """About a series whose verdict is not a safe one, or whose pixels can't be decoded."""
    sentence = f"Series {series.uid} is not safe to use ({series.verdict}): {series.reason}."
    remedy = "Look at it; 'medseg convert' interpolates what is allowed there."
    return Complaint(series.name, f"series-{series.verdict.replace('_', '-')}", sentence, remedy)
