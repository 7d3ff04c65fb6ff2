"""What ``medseg report`` tells of a folder of predictions: the most urgent case first, if that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.cases.case import Case, read_case_image
from medseg.cases.dicom_inputs import find_dicom_cases
from medseg.cases.labels import LabelTable
from medseg.commands.report_cases import (
    Drawn,
    Pictures,
    Reported,
    explanations_in,
    loaded,
    read_prediction,
    with_calibration,
)
from medseg.errors import MedsegError
from medseg.evaluation.heat_pictures import HeatMap, Outlined, draw_heat
from medseg.evaluation.palette import colors_of, topmost
from medseg.evaluation.pictures import draw_comparison, draw_scores
from medseg.evaluation.scores import Scores
from medseg.images.formats import read_image
from medseg.inference.bundle import open_model
from medseg.inference.inputs import find_cases, has_images
from medseg.inference.model import Model
from medseg.reports.case import CaseFacts
from medseg.reports.experiment import Experiment
from medseg.run_record import RunRecord
from medseg.uncertainty.summary import UncertaintySummary

_MAPS = {"entropy": "all uncertainty (predictive entropy)", "epistemic": "of it the model's own (mutual information)"}


@dataclass(frozen=True)
class _Run:
    """What ``medseg predict`` has left."""

    folder: Path
    record: RunRecord
    model: Model
    table: LabelTable
    summary: UncertaintySummary | None
    scores: Scores | None
    """Of 'medseg evaluate', where it was run on the folder."""

    @property
    def cases(self) -> Mapping[str, Mapping[str, Any]]:
        return self.record.facts["cases"]


def report_predicted(folder: Path) -> Reported:
    """A folder that 'medseg predict' has written. Raises MedsegError for another one."""
    record = RunRecord.load(folder / "run.json")
    if record.command != "predict":
        raise MedsegError(f"{folder} was written by 'medseg {record.command}', not by 'medseg predict'.")
    run = _Run(
        folder,
        record,
        open_model(Path(record.facts["model_folder"])),
        LabelTable.load(folder / "labels.yaml"),
        loaded(UncertaintySummary, folder / "uncertainty.json"),
        loaded(Scores, folder / "evaluation" / "scores.json"),
    )
    cases = _cases(run)
    title = f"{run.model.plan.dataset}: {len(cases)} prediction(s)"
    return Reported(title, folder, cases, lambda scratch: _experiment(run, title, cases, scratch))


def _cases(run: _Run) -> list[Drawn]:
    images, explained = _images(run), explanations_in(run.model.folder)
    uncertain = {case.case: case for case in run.summary.cases} if run.summary is not None else {}
    scored = {case.case: case for case in run.scores.cases} if run.scores is not None else {}
    guarantee = ""
    if run.summary is not None and run.summary.assumption is not None:
        guarantee = f"What is guaranteed holds at {run.summary.rate:g}. {run.summary.assumption}"

    def drawn(name: str) -> Drawn:
        known = run.cases[name]
        facts = CaseFacts(
            name,
            {"file": known["file"]},
            tuple(known.get("remarks", ())),
            scored.get(name),
            uncertain.get(name),
            guarantee,
            explained.get(name, ()),
        )
        return Drawn(facts, lambda folder: _draw(folder, run, name, images))

    ordered = [
        *(name for name in uncertain if name in run.cases),
        *(name for name in run.cases if name not in uncertain),
    ]
    return [drawn(name) for name in ordered]


def _images(run: _Run) -> dict[str, Case]:
    """The images as far as they are still where they were."""
    place, channels = Path(run.record.settings["input"]), [channel.name for channel in run.model.plan.channels]
    try:
        if place.is_dir() and not has_images(place):
            from medseg.images.dicom.selection import SeriesRules

            rules = run.record.settings.get("select")
            found = find_dicom_cases(place, channels, SeriesRules.load(Path(rules)) if rules else None).cases
        else:
            found, _ = find_cases(place, channels)
    except MedsegError:
        return {}
    return {case.name: case for case in found}


def _draw(folder: Path, run: _Run, name: str, images: Mapping[str, Case]) -> Pictures:
    if name not in images:
        raise MedsegError(f"there is no image of it in {run.record.settings['input']} any more.")
    image = read_case_image(images[name], len(run.model.plan.channels))
    found = topmost(read_prediction(run.folder / run.cases[name]["file"], image, run.table), run.table)
    colors, affine = colors_of(run.table.targets), image.affine if image.orientation_known else None
    path = folder / "case.png"
    names = run.table.target_names
    draw_comparison(path, image.array[0], None, found, image.spacing, names, colors, name, affine)
    pictures = [(path, f"{name}: image and prediction")]
    maps = [
        HeatMap(told, read_image(file).array[0].astype(np.float32), "nats", "none anywhere")
        for kind, told in _MAPS.items()
        if (file := run.folder / "uncertainty" / name / f"{kind}.nii.gz").is_file()
    ]
    if maps:
        path = folder / "uncertainty.png"
        draw_heat(path, image.array[0], Outlined("prediction", found, colors), maps, image.spacing, name, affine)
        pictures.append((path, f"{name}: where the model is uncertain"))
    return pictures


def _experiment(run: _Run, title: str, cases: list[Drawn], scratch: Path) -> Experiment:
    facts = run.record.facts
    name, folds = str(facts["configuration"]), ", ".join(map(str, facts["folds"]))
    charts = {}
    if run.scores is not None:
        charts[name] = scratch / "scores.png"
        draw_scores(charts[name], run.scores, colors_of(run.table.targets))
    unsure = () if run.summary is not None else ("Nothing says how sure the predictions are ('uncertainty=tta').",)
    told = {
        "images": str(run.record.settings["input"]),
        "model": f"{run.model.folder.name}: {name}, fold(s) {folds}, checksum {facts['model'][:16]}",
        "predicted": f"{run.record.finished}, medseg {run.record.versions['medseg']}",
    }
    begun = Experiment(
        title,
        told,
        {name: run.scores} if run.scores is not None else {},
        {name: f"{len(cases)} cases, networks of fold(s) {folds}"},
        charts,
        {},
        notes=(*map(str, facts["failed"].values()), *unsure),
        cases=tuple(one.facts for one in cases),
    )
    return with_calibration(begun, run.model)
