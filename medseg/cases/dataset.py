"""A Dataset: a named set of Cases with channels and labels.

Reading the formats that users bring is the job of ``medseg.cases.formats``; this module knows what they all become.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.cases.case import Case
from medseg.cases.labels import LabelTable
from medseg.errors import Complaint


@dataclass(frozen=True)
class Dataset:
    """Cases in ascending order of name; ``cases`` have labels and are for training, ``unlabelled`` have none."""

    name: str
    channels: tuple[str, ...]
    labels: LabelTable
    cases: tuple[Case, ...]
    unlabelled: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    """With labels, but kept for ``medseg test``: nothing else opens their files."""
    remarks: tuple[Complaint, ...] = field(default=(), compare=False, repr=False)
    """Warnings met while reading, such as a listed case whose labels are absent; ``medseg check`` shows them."""
