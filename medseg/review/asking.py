"""What can be asked of a model for one Case, as the words of the command that does it.

Knows nothing of how jobs run. The Case's image is laid out for the command under the Case's own name, so that results
find their way back; an image of a format that names no case (DICOM) is written as NIfTI first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medseg.arrays import Triple
from medseg.errors import MedsegError
from medseg.explanation.document import Explanation
from medseg.images.formats import write_image
from medseg.inference.inputs import suffix_of
from medseg.review.cache import OpenCase

MAP, DOCUMENT = "map.nii.gz", "explanation.json"
Method = Literal["hires_cam", "seg_grad_cam", "integrated_gradients", "occlusion"]


def lay_out(one: OpenCase, folder: Path) -> list[Path]:
    """Links to (or NIfTI copies of) the Case's images, named as ``medseg predict`` wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    case, several = one.case, len(one.case.images) > 1
    placed = []
    for number, path in enumerate(case.images):
        suffix = suffix_of(path)
        target = folder / f"{case.name}{f'_{number:04d}' if several else ''}{suffix or '.nii.gz'}"
        placed.append(target)
        if target.exists():
            continue
        if suffix:
            target.symlink_to(path.resolve())
        else:
            channel = one.image[number : number + 1] if several else one.image
            write_image(target, np.ascontiguousarray(one.turn.to_file(channel)), one.grid)
    return placed


def predict_words(one: OpenCase, model: Path, folder: Path, uncertainty: str, quality: str) -> list[str]:
    """The words of ``medseg predict`` for a Case."""
    lay_out(one, folder)
    words = [f"input={folder}", f"model={model}", "picture=false"]
    return [*words, f"uncertainty={uncertainty}"] if uncertainty != "none" else [*words, f"quality={quality}"]


@dataclass(frozen=True)
class Question:
    """What is to be explained."""

    label: str
    method: Method = "hires_cam"
    layer: str = "auto"
    component: int | None = None
    """Only this connected part, 1 is the largest."""
    point: Triple | None = None
    """What lies around this voxel (z, y, x) of the file instead."""
    radius_mm: float = 5.0


def explain_words(one: OpenCase, model: Path, folder: Path, question: Question) -> list[str]:
    """The words of ``medseg explain`` for a Case, with the check whether the map deserves belief."""
    first = lay_out(one, folder)[0]
    words = [f"case={first}", f"label={question.label}", f"model={model}", "sanity=true"]
    words += [f"method={question.method}", f"layer={question.layer}"]
    if question.point is not None:
        words += [f"point={list(question.point)}", f"radius_mm={question.radius_mm:g}"]
    elif question.component is not None:
        words.append(f"component={question.component}")
    return words


@dataclass(frozen=True)
class Explained:
    """An explanation that is there."""

    number: int
    """Among those of its Case; the oldest is 1."""
    document: Explanation
    map: Path

    @property
    def verdict(self) -> str:
        """What the sanity check says; empty where it was not run."""
        return str((self.document.sanity or {}).get("verdict", ""))


def explanations_in(folder: Path, case: str) -> Sequence[Explained]:
    """Every explanation of a Case under a folder, the newest first."""
    found: list[Explained] = []
    for path in sorted(folder.glob(f"*/{DOCUMENT}"), key=lambda path: path.stat().st_mtime_ns):
        try:
            document = Explanation.load(path)
        except MedsegError:
            continue  # of an older medseg
        if document.case == case:
            found.append(Explained(len(found) + 1, document, path.parent / MAP))
    return found[::-1]
