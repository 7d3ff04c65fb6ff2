"""What the pages of ``medseg report`` have in common, whether of held-out cases or of predictions.

Knows nothing of how a page looks. A file that cannot be read costs a picture and is told, not the whole report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.documents import Document
from medseg.errors import MedsegError
from medseg.explanation.document import Explanation
from medseg.images.formats import read_labels_for
from medseg.images.volume import Volume, require_same_grid
from medseg.inference.model import Model
from medseg.reports.case import CaseFacts, Explained
from medseg.reports.experiment import Experiment
from medseg.uncertainty.calibration import Calibration
from medseg.uncertainty.familiarity import Familiarity

Pictures = list[tuple[Path, str]]
"""Each with what it shows."""
D = TypeVar("D", bound=Document)


@dataclass(frozen=True)
class Drawn:
    """A Case, and what draws its pictures into a folder."""

    facts: CaseFacts
    draw_into: Callable[[Path], Pictures]

    def draw(self, folder: Path) -> tuple[Pictures, CaseFacts]:
        """The pictures, and what is known of the Case with a remark where they could not be drawn."""
        try:
            return self.draw_into(folder), self.facts
        except (MedsegError, OSError) as error:
            return [], replace(self.facts, remarks=(*self.facts.remarks, f"No picture was drawn: {error}"))


@dataclass(frozen=True)
class Reported:
    """What the pages are made of."""

    title: str
    folder: Path
    cases: Sequence[Drawn]
    """Those to look at first come first."""
    experiment: Callable[[Path], Experiment]
    """The page of all, whose charts are drawn into a folder."""


def loaded(kind: type[D], path: Path) -> D | None:
    """The document, where there is one."""
    return kind.load(path) if path.is_file() else None


def explanations_in(folder: Path) -> dict[str, tuple[Explained, ...]]:
    """What ``medseg explain`` has written beside a model, by Case."""
    found: dict[str, tuple[Explained, ...]] = {}
    for path in sorted((folder / "explanations").glob("*/explanation.json")):
        document = Explanation.load(path)
        found[document.case] = (*found.get(document.case, ()), Explained(document, path.with_name("explanation.png")))
    return found


def read_prediction(path: Path, image: Volume, table: LabelTable) -> Labels:
    """Label indices of a written prediction. Raises MedsegError where it does not belong to the image."""
    volume = read_labels_for(path, image, table.values_by_name)
    require_same_grid(image, volume, "the image", "the prediction")
    return table.to_indices(volume.array)


def with_calibration(experiment: Experiment, model: Model) -> Experiment:
    """The same with what ``medseg calibrate`` has learned, if it was run."""
    if model.familiarity is not None:
        experiment = replace(experiment, familiarity=Familiarity.load(model.familiarity))
    if model.calibration is None:
        return experiment
    known = Calibration.load(model.calibration)
    stale = any(identity != _identity(model, name) for name, identity in known.identities.items())
    picture = model.calibration.with_suffix(".png")
    return replace(experiment, calibration=known, calibration_picture=picture, calibration_is_stale=stale)


def _identity(model: Model, name: str) -> str | None:
    """Of all numbered folds of a configuration, as ``medseg calibrate`` notes it."""
    numbered = [fold for fold in model.weights.get(name, ()) if isinstance(fold, int)]
    return model.load(name, numbered).identity if numbered else None
