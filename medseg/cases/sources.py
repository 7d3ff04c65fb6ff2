"""Where a public dataset comes from: address, checksum, licence, channels and labels, as documents in ``datasets/``.

Knows no network: nothing here is downloaded.
"""

from __future__ import annotations

from typing import ClassVar

from medseg.cases.labels import Label
from medseg.documents import Document
from medseg.errors import DatasetError, MedsegError


class DatasetSource(Document):
    """A public dataset, as its makers describe it."""

    kind: ClassVar[str] = "source"
    error: ClassVar[type[MedsegError]] = DatasetError

    name: str
    """As the dataset calls itself."""
    description: str
    """What is in it."""
    url: str
    """Of the archive, or of the page where terms have to be accepted first."""
    licence: str
    """Of the images and labels."""
    reference: str
    """What to cite."""
    layout: str
    """Which of the layouts that ``read_dataset`` understands it has."""
    channels: tuple[str, ...]
    """Names in order."""
    labels: tuple[Label, ...]
    """Name and value of each structure, background first."""
    md5: str | None = None
    """Of the archive, where its publisher gives one."""
    labelled_cases: int | None = None
    """How many cases have labels."""
