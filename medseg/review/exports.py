"""Labels leave for other programs, to be edited there, and for the next training.

Knows nothing of pages. Everything is copied; what a reader looks at stays as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.formats import save_dataset
from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError
from medseg.evaluation.palette import colors_of
from medseg.files import folder_written_whole, hash_file, write_text
from medseg.images.formats import stem_of, write_image, write_labels
from medseg.review.cache import OpenCase
from medseg.review.case import Finding, ReviewCase
from medseg.review.records import Review


def export_for_editing(one: OpenCase, finding: Finding, folder: Path) -> Path:
    """Image, labels and colour tables for 3D Slicer and ITK-SNAP, in a folder that is written whole; returns it."""
    with folder_written_whole(folder) as partial:
        write_image(partial / "image.nii.gz", np.asarray(one.turn.to_file(one.image)), one.grid)
        values = finding.table.to_values(np.asarray(one.turn.to_file(one.labels(finding))))
        write_labels(partial / "labels.nii.gz", values, one.grid)
        finding.table.save(partial / "labels.yaml")
        write_text(partial / "slicer.ctbl", slicer_colors(finding.table))
        write_text(partial / "itksnap.txt", itksnap_labels(finding.table))
    return folder


def slicer_colors(table: LabelTable) -> str:
    """3D Slicer's colour table: value, name, red, green, blue, opacity."""
    lines = ["0 Background 0 0 0 0"]
    for name, value, (red, green, blue) in _rows(table):
        lines.append(f"{value} {'_'.join(name.split())} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def itksnap_labels(table: LabelTable) -> str:
    """ITK-SNAP's label descriptions: value, red, green, blue, opacity, visible, mesh, name."""
    lines = ['0 0 0 0 0 0 0 "Clear Label"']
    for name, value, (red, green, blue) in _rows(table):
        lines.append(f'{value} {red} {green} {blue} 1 1 1 "{name.replace(chr(34), chr(39))}"')
    return "\n".join(lines) + "\n"


def _rows(table: LabelTable) -> list[tuple[str, int, tuple[int, int, int]]]:
    drawn = {target.written_index: color for target, color in zip(table.targets, colors_of(table.targets), strict=True)}
    return [
        (label.name, label.value, drawn.get(index, (128, 128, 128)))
        for index, label in enumerate(table.labels)
        if index > 0
    ]


def export_dataset(cases: Sequence[ReviewCase], reviews: Mapping[str, Review], folder: Path, name: str) -> int:
    """A dataset for ``medseg plan dataset=FOLDER`` of every Case whose last review accepted a label map; their number.

    Labels are copied, images stay where they are. Raises DatasetError where nothing was accepted, where label maps have
    other tables, or where one is no longer what was accepted.
    """
    chosen = [(case, finding) for case in cases if (finding := _accepted(case, reviews.get(case.name))) is not None]
    if not chosen:
        raise DatasetError("No case has been accepted yet, so there is nothing to train on.")
    tables = {finding.table.content_hash() for _, finding in chosen}
    channels = {case.channels for case, _ in chosen}
    if len(tables) > 1 or len(channels) > 1:
        raise DatasetError(
            "The accepted cases have different label tables or channels. Accept those of one model only."
        )
    with folder_written_whole(folder) as partial:
        listed = []
        for case, finding in chosen:
            target = Path("labels") / f"{case.name}{''.join(_ending(finding.labels))}"
            (partial / "labels").mkdir(exist_ok=True)
            shutil.copyfile(finding.labels, partial / target)
            listed.append(Case(case.name, tuple(path.resolve() for path in case.images), partial / target))
        save_dataset(Dataset(name, chosen[0][0].channels, chosen[0][1].table, tuple(listed)), partial / "dataset.yaml")
    return len(chosen)


def _accepted(case: ReviewCase, review: Review | None) -> Finding | None:
    if review is None or review.status != "accepted":
        return None
    finding = case.finding(review.finding)
    if finding is None or hash_file(finding.labels) != review.labels:
        raise DatasetError(
            f"Case '{case.name}': the labels that {review.reviewer} accepted have changed since. Review it again."
        )
    return finding


def _ending(path: Path) -> str:
    return path.name[len(stem_of(path)) :]
