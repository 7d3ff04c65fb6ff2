"""What a run of ``medseg predict`` has left in its folder, or any folder of label files: one Finding for each Case.

Opens the run's documents, and no image. A folder of another program's labels needs a ``labels.yaml`` beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError
from medseg.evaluation.measurements import VolumeInterval
from medseg.images.formats import SUFFIXES, stem_of
from medseg.review.case import Finding
from medseg.run_record import RunRecord
from medseg.uncertainty.summary import CaseUncertainty, UncertaintySummary

_LABELS, _RECORD, _UNCERTAINTY = "labels.yaml", "run.json", "uncertainty.json"


@dataclass(frozen=True)
class Run:
    """Label files of several Cases that one model has made."""

    name: str
    """On the page."""
    folder: Path
    table: LabelTable
    input: Path | None = None
    """Where the images are."""
    model: Path | None = None
    uncertain: dict[str, CaseUncertainty] = field(default_factory=dict)
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rate: float | None = None
    """At which intervals are guaranteed, where the model was calibrated."""

    @cached_property
    def files(self) -> dict[str, Path]:
        """The label file of each Case."""
        if not self.folder.is_dir():
            return {}
        return {
            stem_of(path): path
            for path in sorted(self.folder.iterdir())
            if path.is_file()
            and not path.name.startswith(".")
            and path.name.endswith(SUFFIXES)
            and not _is_picture(path)
        }

    def finding(self, case: str) -> Finding | None:
        """What it found in a Case; None where it has not seen it."""
        path = self.files.get(case)
        if path is None:
            return None
        maps = {one.name.removesuffix(".nii.gz"): one for one in (self.folder / "uncertainty" / case).glob("*.nii.gz")}
        maps = {name: one for name, one in maps.items() if not name.startswith("contours_")}
        doubt, remarks = self.uncertain.get(case), self.remarks.get(case, ())
        if doubt is not None and doubt.warning is not None:
            remarks = (doubt.warning, *remarks)
        return Finding(self.name, path, self.table, maps, doubt, self._intervals(doubt), remarks)

    def _intervals(self, doubt: CaseUncertainty | None) -> dict[str, VolumeInterval]:
        """Of the structures for which something is guaranteed."""
        if doubt is None or self.rate is None:
            return {}
        return {
            one.estimate.name: VolumeInterval(low_ml=bound.volume_low_ml, high_ml=bound.volume_high_ml, rate=self.rate)
            for one in doubt.structures
            if (bound := one.guaranteed) is not None
            and bound.volume_low_ml is not None
            and bound.volume_high_ml is not None
        }


def is_run(folder: Path) -> bool:
    """Whether ``medseg predict`` wrote it."""
    return (folder / _LABELS).is_file() and (folder / _RECORD).is_file()


def read_run(folder: Path, name: str) -> Run:
    """The documents of a run. Raises DatasetError where nothing names the labels."""
    if not (folder / _LABELS).is_file():
        raise DatasetError(f"{folder} holds no labels.yaml, so nothing says what its labels are called. Write one.")
    table = LabelTable.load(folder / _LABELS)
    summary = UncertaintySummary.load(folder / _UNCERTAINTY) if (folder / _UNCERTAINTY).is_file() else None
    uncertain = {one.case: one for one in summary.cases} if summary is not None else {}
    rate = summary.rate if summary is not None else None
    if not (folder / _RECORD).is_file():
        return Run(name, folder, table, uncertain=uncertain, rate=rate)
    facts = RunRecord.load(folder / _RECORD).facts
    remarks = {case: tuple(one.get("remarks", ())) for case, one in facts.get("cases", {}).items()}
    images, model = _path(facts.get("input")), _path(facts.get("model_folder"))
    return Run(name, folder, table, images, model, uncertain, remarks, rate)


def _is_picture(path: Path) -> bool:
    """Whether a PNG is the picture that stands beside labels of another format."""
    return path.suffix == ".png" and any(
        path.with_name(stem_of(path) + end).is_file() for end in SUFFIXES if end != ".png"
    )


def _path(text: object) -> Path | None:
    return Path(text) if isinstance(text, str) else None
