"""``medseg evaluate``: compare a folder of predictions with a folder of labels, case by case.

Geometry is compared before voxels: a prediction that lies elsewhere (mirrored, shifted, of another spacing) is an
error of that case, never a score. One bad case does not stop the others; they are listed at the end, exit code 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from medseg.cases.labels import Label, LabelTable
from medseg.cases.listing import read_label_table
from medseg.commands.console import Bar, say, table
from medseg.commands.executor import ExecutorSettings
from medseg.errors import MedsegError, SettingsError
from medseg.evaluation.scores import CaseScores, Scores, as_rows, rank_cases, score_case, summarise, write_csv
from medseg.executors import Executor
from medseg.images.formats import SUFFIXES, read_image, read_labels, stem_of
from medseg.images.volume import Volume, require_same_grid
from medseg.run_record import record_run
from medseg.settings import build

_LISTED = 10
T = TypeVar("T")


class EvaluateSettings(ExecutorSettings):
    """Settings of ``medseg evaluate``."""

    predictions: Path
    """Folder of predicted label files, or one file."""
    labels: Path
    """Folder of true label files with the same names (the suffix may differ), or one file."""
    output: Path | None = None
    """Folder for scores.json, scores.csv and pictures; by default evaluation/ inside the predictions."""
    tolerance_mm: NonNegativeFloat = 1.0
    """How far apart two surfaces may lie and still agree, for NSD and boundary F1."""
    label_table: Path | None = None
    """labels.yaml with names, values, regions and colours; by default the one beside the predictions or the labels."""
    images: Path | None = None
    """Folder of the images, for the picture of the worst case; without it the picture shows labels only."""
    complete: bool = False
    """Treat labels without a prediction as failures instead of listing them."""
    picture: bool = True
    """Draw the worst case, and the Dice of all cases."""
    workers: NonNegativeInt = 0
    """Cases scored at once; 0 takes one for each processor core, 4 at most."""


SETTINGS = (EvaluateSettings,)


@dataclass
class _Pairs:
    """Which files belong together, by case name, and what can't be paired."""

    found: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    without_prediction: list[str] = field(default_factory=list)


def run(words: Mapping[str, str]) -> int:
    """Score every case; the exit code is 2 when one of them could not be scored."""
    settings = build(EvaluateSettings, words)
    pairs = _pair(settings)
    executor = settings.chosen(settings.workers or min(os.cpu_count() or 1, 4))
    label_table = _label_table(settings, pairs, executor)
    score = partial(_score, pairs=pairs, label_table=label_table, tolerance_mm=settings.tolerance_mm)
    scored, failed = _each_case("Scoring", list(pairs.found), score, executor)
    failed = pairs.failed | failed
    output = settings.output or _folder_of(settings.predictions) / "evaluation"
    if scored:
        scores = summarise([scored[name] for name in sorted(scored)])
        scores.save(output / "scores.json")
        write_csv(output / "scores.csv", scores)
        columns, rows = as_rows(scores)
        table(f"{len(scored)} cases of {settings.predictions}", columns, rows)
        if settings.picture:
            _draw(settings, scores, pairs, label_table, output)
        _record(settings, words, output, scored, failed)
        say(f"Numbers of every case: {output / 'scores.json'}, {output / 'scores.csv'}")
    _tell_unpaired(pairs.without_prediction)
    for name, sentence in sorted(failed.items()):
        say(f"Not scored, {name}: {sentence}")
    return 2 if failed or not scored else 0


def _pair(settings: EvaluateSettings) -> _Pairs:
    for key, path in (("predictions", settings.predictions), ("labels", settings.labels)):
        if not path.exists():
            raise SettingsError(f"{key}={path} does not exist. Name a folder of label files, or one file.")
    if settings.predictions.resolve() == settings.labels.resolve():
        raise SettingsError("predictions and labels are the same folder, so every score would be 1. Name two.")
    pairs = _Pairs()
    predictions, truths = _by_stem(settings.predictions), _by_stem(settings.labels)
    if settings.predictions.is_file() and settings.labels.is_file():
        # Two files given by name belong together, whatever their names are.
        ((name, files),) = predictions.items()
        pairs.found[name] = (files[0], settings.labels)
        return pairs
    for name, files in predictions.items():
        several = files if len(files) > 1 else truths.get(name, [])
        if len(several) > 1:
            names = " and ".join(file.name for file in several)
            pairs.failed[name] = f"{names} in {several[0].parent} have the same name. Move all but one away."
        elif name not in truths:
            pairs.failed[name] = f"{settings.labels} holds no labels of this name."
        else:
            pairs.found[name] = (files[0], truths[name][0])
    pairs.without_prediction = sorted(set(truths) - set(predictions)) if settings.predictions.is_dir() else []
    if settings.complete:
        pairs.failed |= dict.fromkeys(pairs.without_prediction, f"{settings.predictions} holds no prediction.")
        pairs.without_prediction = []
    if not pairs.found and not pairs.failed:
        raise SettingsError(f"There is no label file in {settings.predictions}. Known suffixes: {', '.join(SUFFIXES)}.")
    return pairs


def _by_stem(path: Path) -> dict[str, list[Path]]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found: dict[str, list[Path]] = {}
    for file in files:
        if file.is_file() and not file.name.startswith(".") and stem_of(file) != file.name:
            found.setdefault(stem_of(file), []).append(file)
    return found


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _score(name: str, pairs: _Pairs, label_table: LabelTable, tolerance_mm: float) -> CaseScores:
    prediction, truth = _read_pair(name, pairs, label_table)
    return score_case(prediction.array, truth.array, truth.spacing, label_table, tolerance_mm, name)


def _values(name: str, pairs: _Pairs) -> set[int]:
    return {int(value) for file in pairs.found[name] for value in np.unique(read_labels(file).array)}


def _label_table(settings: EvaluateSettings, pairs: _Pairs, executor: Executor) -> LabelTable:
    """The given table, else the one beside the predictions or labels, else one of the values that occur."""
    if settings.label_table is not None:
        return read_label_table(settings.label_table)
    for place in (settings.predictions, settings.labels):
        path = _folder_of(place) / "labels.yaml"
        if path.is_file():
            return read_label_table(path)

    found, _ = _each_case("Looking for label values", list(pairs.found), partial(_values, pairs=pairs), executor)
    present = sorted(set().union(*found.values()) - {0})
    say(f"No labels.yaml was found, so structures are named by value: {', '.join(map(str, present)) or 'none'}.")
    return LabelTable(
        labels=(Label(name="background", value=0), *(Label(name=f"label {value}", value=value) for value in present))
    )


def _read_pair(name: str, pairs: _Pairs, label_table: LabelTable) -> tuple[Volume, Volume]:
    """Prediction and truth as indices. Raises MedsegError for unreadable files, other grids and unknown values."""
    prediction, truth = (read_labels(file) for file in pairs.found[name])
    require_same_grid(truth, prediction, "the labels", "The prediction")
    indices = []
    for file, volume in zip(pairs.found[name], (prediction, truth), strict=True):
        try:
            indices.append(replace(volume, array=label_table.to_indices(volume.array)))
        except MedsegError as error:
            raise MedsegError(f"{file}: {error}") from None
    return indices[0], indices[1]


def _each_case(
    title: str, names: Sequence[str], work: Callable[[str], T], executor: Executor
) -> tuple[dict[str, T], dict[str, str]]:
    """Do the work for every case, several at once: results and failures by name."""
    done: dict[str, T] = {}
    failed: dict[str, str] = {}
    with Bar() as bar:
        bar.start(title, len(names))
        for finished in executor(work, names):
            # A fault of ours should not cost the others either; alone, the case shows its whole traceback.
            if finished.fault is not None and len(names) == 1:
                raise finished.fault
            if finished.error is None:
                done[finished.item] = finished.result
            else:
                more = "" if finished.fault is None else ". Evaluate this file alone to see more."
                failed[finished.item] = finished.error + more
            bar.advance()
    return done, failed


def _draw(settings: EvaluateSettings, scores: Scores, pairs: _Pairs, label_table: LabelTable, output: Path) -> None:
    from medseg.evaluation.palette import colors_of
    from medseg.evaluation.pictures import draw_case, draw_scores

    draw_scores(output / "scores.png", scores, colors_of(label_table.targets))
    ranked = rank_cases(scores)
    if not ranked:
        return
    worst = ranked[0]
    prediction, truth = _read_pair(worst.case, pairs, label_table)
    image = _image_of(settings.images, worst.case, truth)
    affine = truth.affine if truth.orientation_known else None
    pixels = None if image is None else image.array[0]
    draw_case(
        output / "worst_case.png", pixels, truth.array, prediction.array, truth.spacing, worst, label_table, affine
    )
    say(f"Worst case, {worst.case}: {output / 'worst_case.png'}   All cases: {output / 'scores.png'}")


def _image_of(folder: Path | None, name: str, truth: Volume) -> Volume | None:
    """The case's image (its first channel's file), or None with a sentence why the picture goes without."""
    if folder is None:
        return None
    files = _by_stem(folder) if folder.is_dir() else {}
    found = files.get(name) or files.get(f"{name}_0000")
    if not found:
        say(f"The picture shows labels only: there is no image of '{name}' in {folder}.")
        return None
    try:
        image = read_image(found[0])
        require_same_grid(truth, image, "the labels", "the image")
    except MedsegError as error:
        say(f"The picture shows labels only: {error}")
        return None
    return image


def _tell_unpaired(names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        say(f"{len(names)} labels have no prediction and count nowhere: {', '.join(names[:_LISTED])}{more}.")


def _record(
    settings: EvaluateSettings,
    words: Mapping[str, str],
    output: Path,
    scored: Mapping[str, CaseScores],
    failed: Mapping[str, str],
) -> None:
    sources = {key: "words" if key in words else "default" for key in EvaluateSettings.model_fields}
    facts = {"scored": sorted(scored), "failed": dict(sorted(failed.items()))}
    record_run(output / "run.json", "evaluate", words, settings.model_dump(mode="json"), sources, facts)
