"""``medseg select``: compare the trained configurations and their pairs on held-out cases, and learn post-processing.

After ``medseg train fold=all`` (for one or several configurations): ``medseg select``
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from medseg.arrays import Labels
from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.commands.chosen import chosen_workspace
from medseg.commands.console import Bar, say, table
from medseg.commands.held_out import HeldOut, read_held_out
from medseg.documents import Document
from medseg.errors import MedsegError
from medseg.evaluation.scores import Scores, as_rows, score_case, summarise
from medseg.images.formats import read_labels, write_labels
from medseg.images.volume import Volume
from medseg.paths import Workspace
from medseg.run_record import record_run
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.inference.components import ComponentRule
    from medseg.inference.model import Model, Networks
    from medseg.inference.options import Options
    from medseg.inference.selection import Selection

Candidate = tuple[str, ...]


class SelectSettings(Settings):
    """Settings of ``medseg select``."""

    workspace: Path | None = None
    """A workspace with trained folds; by default the one last used from here."""
    configurations: tuple[str, ...] | None = None
    """Which to compare; by default all that are trained."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    postprocess: bool = True
    """Learn which component rules help."""


SETTINGS = (SelectSettings,)


class _Record(Document):
    """Which networks the label maps in ``selection/`` are of; ``record.json``."""

    kind: ClassVar[str] = "selection-record"

    identities: dict[str, str]


@dataclass(frozen=True)
class _Job:
    """What is compared on what."""

    held_out: HeldOut
    options: Options

    @property
    def workspace(self) -> Workspace:
        return self.held_out.workspace

    @property
    def model(self) -> Model:
        return self.held_out.model

    @property
    def cases(self) -> Mapping[str, Case]:
        """Held out by every configuration, by name."""
        return self.held_out.cases

    @property
    def configurations(self) -> tuple[str, ...]:
        return tuple(self.held_out.folds)

    @property
    def folder(self) -> Path:
        return self.workspace.folder / "selection"

    def file(self, candidate: Candidate, name: str) -> Path:
        """The predicted labels of a Case by a candidate."""
        return self.folder / "_with_".join(candidate) / f"{name}.nii.gz"


def run(words: Mapping[str, str]) -> None:
    """Predict every held-out Case with every candidate, compare them, and write ``selection.json``."""
    settings = build(SelectSettings, words)
    from medseg.inference.selection import candidates_of, choose, learn_rules, make_selection

    started = time.monotonic()
    job = _read_job(settings)
    candidates = candidates_of(job.configurations)
    _predict_all(job, candidates)
    tables = {candidate: _dice_of(job, candidate) for candidate in candidates}
    chosen, compared = choose(tables)
    rules: tuple[ComponentRule, ...] = ()
    if settings.postprocess:
        say("Trying component rules ...")
        rules, _ = learn_rules(sorted(job.cases), lambda name: _arrays(job, chosen, name), job.model.labels)
    scores = _scores(job, chosen, rules)
    folds = {name: sorted(set(found.values())) for name, found in job.held_out.folds.items()}
    selection = make_selection(chosen, compared, rules, folds, job.held_out.identities, scores)
    selection.save(job.workspace.selection)
    sources = {name: "words" if name in words else "default" for name in SelectSettings.model_fields}
    facts: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1), "cases": sorted(job.cases)}
    record_run(job.folder / "run.json", "select", words, settings.model_dump(mode="json"), sources, facts)
    _show(job, selection, scores)


def _read_job(settings: SelectSettings) -> _Job:
    from medseg.inference.devices import choose_device
    from medseg.inference.options import Options

    held_out = read_held_out(chosen_workspace(settings.workspace), settings.configurations)
    return _Job(held_out, Options.of("best", choose_device(settings.device)))


def _predict_all(job: _Job, candidates: Sequence[Candidate]) -> None:
    """Label maps of every candidate and Case that are not there yet; nothing else is kept."""
    record = _Record(identities=dict(job.held_out.identities))
    path = job.folder / "record.json"
    if not path.is_file() or _Record.load(path) != record:
        if job.folder.exists():
            shutil.rmtree(job.folder)
        record.save(path)
    waiting = [name for name in job.cases if any(not job.file(one, name).is_file() for one in candidates)]
    waiting = _take_validation(job, candidates, waiting)
    with Bar() as bar:
        bar.start("Predicting held-out cases", len(waiting))
        for members, _, names in job.held_out.by_folds(waiting, job.options.device):
            for name in names:
                _predict_one(job, job.cases[name], members, candidates)
                bar.advance()
        bar.finish()


def _take_validation(job: _Job, candidates: Sequence[Candidate], waiting: Sequence[str]) -> list[str]:
    """With a single configuration the labels that its training has written are the same: they are copied."""
    if len(candidates) > 1:
        return list(waiting)
    ((configuration,),) = candidates
    left = []
    for name in waiting:
        fold = job.held_out.folds[configuration][name]
        file = job.workspace.fold(configuration, fold) / "validation" / f"{name}.nii.gz"
        if file.is_file():
            volume = read_labels(file)
            write_labels(job.file((configuration,), name), volume.array, volume)
        else:
            left.append(name)
    return left


def _predict_one(job: _Job, case: Case, members: Sequence[Networks], candidates: Sequence[Candidate]) -> None:
    from medseg.inference.predict import predict_together

    image = read_case_image(case, len(job.model.plan.channels))
    places = [[job.configurations.index(name) for name in candidate] for candidate in candidates]
    found = predict_together(image, members, places, job.options, case.name)
    for candidate, indices in zip(candidates, found, strict=True):
        write_labels(job.file(candidate, case.name), job.model.labels.to_values(indices), image)


def _pair(job: _Job, candidate: Candidate, name: str) -> tuple[Labels, Volume]:
    """Prediction (label indices) and truth of a Case; the prediction lies on its image's grid, so that is not read."""
    labels = job.model.labels
    predicted = read_labels(job.file(candidate, name))
    return labels.to_indices(predicted.array), read_case_labels(job.cases[name], labels, predicted)


def _arrays(job: _Job, candidate: Candidate, name: str) -> tuple[Labels, Labels]:
    prediction, truth = _pair(job, candidate, name)
    return prediction, truth.array


def _dice_of(job: _Job, candidate: Candidate) -> np.ndarray:
    from medseg.evaluation.comparison import target_dice

    pairs = (_pair(job, candidate, name) for name in job.cases)
    return np.array([target_dice(prediction, truth.array, job.model.labels) for prediction, truth in pairs])


def _scores(job: _Job, chosen: Candidate, rules: Sequence[ComponentRule]) -> Scores:
    from medseg.inference.components import apply_rules

    labels = job.model.labels
    scored = []
    for name in job.cases:
        prediction, truth = _pair(job, chosen, name)
        prediction = apply_rules(prediction, rules, labels)
        scored.append(score_case(prediction, truth.array, truth.spacing, labels, case=name))
    return summarise(scored)


def _show(job: _Job, selection: Selection, scores: Scores) -> None:
    from medseg.evaluation.pictures import draw_candidates
    from medseg.inference.selection import JOINED

    titles = ["candidate", "Dice [95 % interval]", "difference to the best single one", "p"]
    rows = []
    reference_name = next(one.name for one in selection.candidates if JOINED not in one.name)  # the best single one
    for one in selection.candidates:
        reference = one.name == reference_name
        difference = "-" if reference else f"{one.difference:+.4f} {_span(one.difference_low, one.difference_high)}"
        mark = " *" if one.name == JOINED.join(selection.chosen) else ""
        p = "-" if one.p_value is None else f"{one.p_value:.2g}"
        rows.append([f"{one.name}{mark}", f"{one.dice:.4f} {_span(one.low, one.high)}", difference, p])
    table(f"{selection.cases} out-of-fold predictions, * is chosen", titles, rows)
    if len(selection.candidates) > len(job.configurations) and len(selection.chosen) == 1:
        say("No pair is better than the best single configuration by more than chance.")
    for rule in selection.rules:
        what = "all structures together" if rule.target == "*" else f"'{rule.target}'"
        say(f"Only the largest component of {what} is kept: Dice {rule.gain:+.4f}, {rule.cases} cases changed")
    if not selection.rules:
        say("No component rule helps.")
    columns, cells = as_rows(scores)
    table("What was chosen, on held-out cases", columns, cells)
    picture = job.workspace.folder / "selection.png"
    try:
        draw_candidates(picture, selection.candidates, JOINED.join(selection.chosen))
        say(f"Picture: {picture}")
    except MedsegError as error:
        say(f"No picture was drawn: {error}")
    say(f"{job.workspace.selection}: 'medseg predict' and 'medseg bundle' follow it.\nNext: medseg bundle output=DIR")


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"
