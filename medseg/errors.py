"""Every error that medseg raises on purpose.

    MedsegError              one clear sentence: what, where, expected, got, next step
    |-- DatasetError         files, names or labels of a Dataset; carries every Complaint found
    |   `-- ImageFileError   one image or label file that can't be read safely
    |-- GeometryError        spacing, orientation or shape of a Volume
    |-- PlanError            a Plan that can't be made, read or fitted
    |-- SettingsError        a word of the command line that can't be understood
    |-- CheckpointError      a model or training state that is missing, damaged or of another plan
    `-- SiteError            a federated site (its message never holds a patient's data)

``medseg/cli.py`` alone catches these: message on stderr, exit code 2, no traceback (``debug=true`` shows it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class MedsegError(Exception):
    """Base of every error whose message is meant for the user."""


class GeometryError(MedsegError):
    """A Volume lies somewhere else, or in another grid, than it should."""


class PlanError(MedsegError):
    """A Plan that can't be made, read or fitted."""


class SettingsError(MedsegError):
    """A setting that is unknown, of the wrong type, or contradicts another."""


class CheckpointError(MedsegError):
    """A model or training state that is missing, damaged or belongs to another plan."""


class SiteError(MedsegError):
    """A federated site could not take part; the message holds a code, never data or a path."""


@dataclass(frozen=True, order=True)
class Complaint:
    """One thing that is wrong with one file of a Dataset.

    ``code`` is a short stable slug such as ``truncated-gzip``; ``sentence`` says what, where, expected and got;
    ``remedy`` says what the user can do next.
    """

    case: str
    code: str
    sentence: str
    remedy: str
    file: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}".strip()


class DatasetError(MedsegError):
    """Files, names or labels of a Dataset; ``complaints`` holds every one that was found, not just the first."""

    def __init__(self, message: str, complaints: Sequence[Complaint] = ()) -> None:
        self.complaints = tuple(complaints)
        lines = "".join(f"\n  - {complaint}" for complaint in self.complaints)
        super().__init__(message + lines)


class ImageFileError(DatasetError):
    """One image or label file that can't be read safely; ``code`` is the slug that its Complaint will carry."""

    def __init__(self, code: str, sentence: str, remedy: str = "") -> None:
        self.code, self.sentence, self.remedy = code, sentence, remedy
        super().__init__(f"{sentence} {remedy}".strip())
