"""Simple corrections of a label map: each one is a new version on the disk, and the original is never touched.

Knows nothing of pages. Arrays lie on the page; versions are written on the image's own grid. What was undone is moved
aside, not deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.arrays import Labels, Spacing, Triple
from medseg.documents import Document, Record
from medseg.errors import MedsegError
from medseg.files import hash_file
from medseg.images.formats import write_labels
from medseg.review.cache import OpenCase
from medseg.review.case import Finding

_UNDONE = "undone"
_HISTORY, _TABLE = "history.json", "labels.yaml"


class Step(Record):
    """One version."""

    number: int
    action: str
    """What was done, in words."""
    of: str
    """The label map that it was made from."""
    source: str
    """SHA-256 of that one's file."""
    reviewer: str
    time: str
    """Date and time, UTC."""


class History(Document):
    """``history.json`` beside the versions of a Case, undone ones included."""

    kind: ClassVar[str] = "correction_history"

    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Corrections:
    """The versions of one Case, in a folder of its own."""

    folder: Path
    one: OpenCase

    @property
    def history(self) -> History:
        """Every version that was ever made."""
        path = self.folder / _HISTORY
        return History.load(path) if path.is_file() else History()

    @property
    def current(self) -> int | None:
        """The number of the last version that was not undone."""
        numbers = [int(path.name.split(".")[0]) for path in self.folder.glob("*.nii.gz")]
        return max(numbers, default=None)

    def add(self, labels: Labels, finding: Finding, action: str, reviewer: str) -> Finding:
        """Write label indices (Z, Y, X) of the page as a new version made from ``finding``.

        Raises MedsegError without a reviewer, where nothing has changed, or when the disk refuses.
        """
        if not reviewer.strip():
            raise MedsegError("A correction needs the name of who made it. Enter yours.")
        if np.array_equal(labels, self.one.labels(finding)):
            raise MedsegError("Nothing would change, so there is no new version.")
        history = self.history
        number = 1 + max((step.number for step in history.steps), default=0)
        step = Step(
            number=number,
            action=action,
            of=finding.name,
            source=hash_file(finding.labels),
            reviewer=reviewer,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        finding.table.save(self.folder / _TABLE)
        path = self.folder / f"{number}.nii.gz"
        write_labels(path, finding.table.to_values(self.one.turn.to_file(labels)), self.one.grid)
        History(steps=(*history.steps, step)).save(self.folder / _HISTORY)
        return Finding(f"correction {number}", path, finding.table)

    def undo(self) -> int:
        """Move the last version aside; returns its number. Raises MedsegError where there is none."""
        number = self.current
        if number is None:
            raise MedsegError("There is no correction to undo.")
        (self.folder / _UNDONE).mkdir(exist_ok=True)
        (self.folder / f"{number}.nii.gz").rename(self.folder / _UNDONE / f"{number}.nii.gz")
        return number

    def take_back(self, path: Path, finding: Finding, reviewer: str) -> Finding:
        """What another program has corrected, NIfTI or DICOM-SEG, as a new version.

        Raises GeometryError unless it lies on the image's grid, DatasetError for labels that the table does not know.
        """
        indices = self.one.turn.to_page(self.one.read_labels(path, finding))
        return self.add(np.ascontiguousarray(indices), finding, "corrected in another program", reviewer)


def without_component(labels: Labels, place: Triple) -> Labels:
    """The connected part under a voxel becomes background. Raises MedsegError where there is none."""
    return _with_component(labels, place, 0)


def relabelled_component(labels: Labels, place: Triple, index: int) -> Labels:
    """The connected part under a voxel becomes another structure. Raises MedsegError where there is none."""
    return _with_component(labels, place, index)


def grown(labels: Labels, index: int, by_mm: float, spacing: Spacing) -> Labels:
    """A structure reaches ``by_mm`` further into the background, and nowhere into another structure."""
    return _within(labels, index, by_mm, spacing, lambda mask, box: _grow(mask, box, by_mm, spacing, index))


def shrunk(labels: Labels, index: int, by_mm: float, spacing: Spacing) -> Labels:
    """A structure loses what lies within ``by_mm`` of its surface."""

    def shrink(mask: NDArray[np.bool_], box: Labels) -> None:
        depth = ndimage.distance_transform_edt(mask, sampling=spacing)
        box[mask & (np.asarray(depth) <= by_mm)] = 0

    return _within(labels, index, by_mm, spacing, shrink)


def _grow(mask: NDArray[np.bool_], box: Labels, by_mm: float, spacing: Spacing, index: int) -> None:
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing)
    box[(box == 0) & (np.asarray(distance) <= by_mm)] = index


def _within(
    labels: Labels, index: int, by_mm: float, spacing: Spacing, change: Callable[[NDArray[np.bool_], Labels], None]
) -> Labels:
    """A copy in which ``change`` has worked on the structure's box with enough room around it."""
    changed = np.array(labels)
    places = ndimage.find_objects((changed == index).astype(np.uint8))
    if not places:
        raise MedsegError("The structure has no voxel here, so it can't grow or shrink.")
    box = tuple(
        slice(max(part.start - 1 - int(by_mm / step), 0), part.stop + 1 + int(by_mm / step))
        for part, step in zip(places[0], spacing, strict=True)
    )
    change(changed[box] == index, changed[box])
    return changed


def _with_component(labels: Labels, place: Triple, index: int) -> Labels:
    own = int(labels[place])
    if own == 0:
        raise MedsegError("There is no structure under the crosshair. Click on the part that is meant.")
    parts = cc3d.connected_components(np.ascontiguousarray(labels == own), connectivity=26)
    changed = np.array(labels)
    changed[parts == parts[place]] = index
    return changed
