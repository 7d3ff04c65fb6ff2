"""What ``medseg report`` tells of a workspace: every training, and its held-out cases, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.cases.formats import read_dataset
from medseg.commands.report_cases import (
    Drawn,
    Pictures,
    Reported,
    explanations_in,
    read_prediction,
    with_calibration,
)
from medseg.errors import CheckpointError, MedsegError
from medseg.evaluation.palette import colors_of
from medseg.evaluation.pictures import draw_case, draw_scores
from medseg.evaluation.scores import CaseScores, Scores, summarise
from medseg.inference.bundle import open_model
from medseg.inference.model import Fold, Model
from medseg.paths import Workspace
from medseg.planning.fingerprint import Fingerprint
from medseg.reports.case import CaseFacts
from medseg.reports.experiment import Experiment, worst_first


@dataclass
class _Trained:
    """One configuration's held-out Cases."""

    scores: list[CaseScores] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    places: dict[str, tuple[Fold, Path]] = field(default_factory=dict)
    """The fold that held a Case out, and its prediction."""


def report_trained(workspace: Workspace) -> Reported:
    """All trained folds of a workspace. Raises CheckpointError where nothing is trained."""
    if not workspace.plan.is_file():
        raise CheckpointError(f"{workspace.folder} is no workspace. Name one that 'medseg plan' has written.")
    model = open_model(workspace.folder)
    if not model.weights:
        raise CheckpointError(f"{workspace.folder} holds no trained fold yet. Run 'medseg train' first.")
    found = {name: one for name in model.weights if (one := _read_folds(workspace, model, name)).scores}
    scores = {name: summarise(one.scores) for name, one in found.items()}
    default = model.choose()[0]
    first = default if default in found else next(iter(found), None)
    cases = [] if first is None else _held_out(workspace, model, first, scores[first], found[first])
    title = f"{model.plan.dataset}: what was trained, and how good it is"

    def experiment(scratch: Path) -> Experiment:
        charts = {name: scratch / f"{name}.png" for name in scores}
        for name, path in charts.items():
            draw_scores(path, scores[name], colors_of(model.labels.targets))
        begun = Experiment(
            title,
            _facts(model, workspace),
            scores,
            {name: f"{len(one.scores)} cases, held out by fold(s) {_listed(one.folds)}" for name, one in found.items()},
            charts,
            _curves(workspace, model),
            selection=model.selection,
            notes=() if found else ("No fold holds cases out: nothing is known of how good the model is.",),
            cases=tuple(one.facts for one in cases),
        )
        return with_calibration(begun, model)

    return Reported(title, workspace.folder, cases, experiment)


def _read_folds(workspace: Workspace, model: Model, configuration: str) -> _Trained:
    found = _Trained()
    for fold in model.weights[configuration]:
        place = workspace.fold(configuration, fold)
        if not (place / "scores.json").is_file():
            continue
        found.folds.append(fold)
        for scores in Scores.load(place / "scores.json").cases:
            found.scores.append(scores)
            found.places[scores.case] = fold, place / "validation" / f"{scores.case}.nii.gz"
    return found


def _held_out(workspace: Workspace, model: Model, configuration: str, scores: Scores, found: _Trained) -> list[Drawn]:
    known = {case.name: case for case in read_dataset(workspace.dataset).cases}
    explained, by_name = explanations_in(model.folder), {case.case: case for case in scores.cases}

    def drawn(name: str) -> Drawn:
        fold, prediction = found.places[name]
        facts = {"configuration": configuration, "held out by fold": str(fold)}
        case = CaseFacts(name, facts, scores=by_name[name], explanations=explained.get(name, ()))
        return Drawn(case, lambda folder: _draw(folder, known, by_name[name], prediction, model))

    return [drawn(name) for name in worst_first(scores)]


def _draw(folder: Path, known: Mapping[str, Case], scores: CaseScores, prediction: Path, model: Model) -> Pictures:
    if scores.case not in known:
        raise MedsegError("the dataset does not hold the case any more.")
    case, table = known[scores.case], model.labels
    image = read_case_image(case, len(model.plan.channels))
    truth = read_case_labels(case, table, image)
    affine = image.affine if image.orientation_known else None
    path = folder / "case.png"
    found = read_prediction(prediction, image, table)
    draw_case(path, image.array[0], truth.array, found, image.spacing, scores, table, affine)
    return [(path, f"{scores.case}: image, labels and prediction")]


def _curves(workspace: Workspace, model: Model) -> dict[str, Path]:
    return {
        f"{name}, fold {fold}": workspace.fold(name, fold) / "curves.png"
        for name, folds in model.weights.items()
        for fold in folds
    }


def _facts(model: Model, workspace: Workspace) -> dict[str, str]:
    plan, facts = model.plan, {}
    if workspace.fingerprint.is_file():
        cases = Fingerprint.load(workspace.fingerprint).cases
        spacing, shape = (np.median([getattr(case, key) for case in cases], axis=0) for key in ("spacing", "shape"))
        facts["dataset"] = f"{plan.dataset}: {len(cases)} labelled cases to train with"
        facts["median case"] = f"{_triple(shape)} voxels of {_triple(spacing)} mm (z, y, x)"
    return facts | {
        "channels": ", ".join(channel.name for channel in plan.channels),
        "structures": ", ".join(model.labels.target_names),
        "preset": plan.preset,
        "trained": "; ".join(f"{name}, fold(s) {_listed(folds)}" for name, folds in model.weights.items()),
        "predicts by default": " + ".join(model.selection.chosen) if model.selection is not None else model.choose()[0],
    }


def _triple(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _listed(folds: Mapping[Fold, Path] | list[Fold]) -> str:
    return ", ".join(str(fold) for fold in folds)
