"""The labels that a cascade's previous configuration has predicted, brought to the grids of the prepared Cases.

Knows nothing of networks. A Case has the labels that were predicted for it out of fold, by a network that has not seen
it (nnU-Net's cascade); they lie beside the prepared arrays and are opened with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from medseg.cases.case import Case
from medseg.cases.labels import LabelTable
from medseg.documents import Document
from medseg.errors import MedsegError
from medseg.files import folder_written_whole, hash_content, hash_file
from medseg.images.formats import read_image, read_labels
from medseg.images.volume import require_same_grid
from medseg.preprocessing.prepare import prepare_labels
from medseg.preprocessing.store import open_prepared, previous_folder
from medseg.progress import Progress


class PreviousRecord(Document):
    """What the labels of a Case were made from; ``case.json``."""

    kind: ClassVar[str] = "previous-labels"

    name: str
    sha256: str
    """Of the file of predicted labels."""
    voxel_hash: str
    """Of the prepared Case that they lie on."""


def prepare_previous(
    cases: Sequence[Case], files: Mapping[str, Path], table: LabelTable, prepared: Path, progress: Progress
) -> None:
    """Bring the predicted label files (by Case) to the grids of the prepared Cases, where that is not done yet.

    Raises MedsegError for a file that can't be read or lies elsewhere than its image.
    """
    folder = previous_folder(prepared)
    stale = [case for case in cases if not _is_current(folder, case, files[case.name], prepared)]
    progress.start("Preparing the previous labels", len(stale))
    for case in stale:
        labels = read_labels(files[case.name])
        require_same_grid(read_image(case.images[0]), labels, f"Case '{case.name}': the image", "the previous labels")
        stored = open_prepared(prepared, case.name)
        indices = replace(labels, array=table.to_indices(labels.array))
        with folder_written_whole(folder / case.name) as temporary:
            np.save(temporary / "labels.npy", prepare_labels(indices, stored.grid, len(table)))
            record = PreviousRecord(name=case.name, sha256=hash_file(files[case.name]), voxel_hash=stored.voxel_hash)
            record.save(temporary / "case.json")
        progress.advance()
    progress.finish()


def previous_hash(prepared: Path, names: Sequence[str]) -> str:
    """A hash of the content of all label files that the named Cases' previous labels were made from."""
    folder = previous_folder(prepared)
    return hash_content([PreviousRecord.load(folder / name / "case.json").sha256 for name in sorted(names)])


def _is_current(folder: Path, case: Case, file: Path, prepared: Path) -> bool:
    try:
        record = PreviousRecord.load(folder / case.name / "case.json")
        return record.sha256 == hash_file(file) and record.voxel_hash == open_prepared(prepared, case.name).voxel_hash
    except MedsegError:
        return False
