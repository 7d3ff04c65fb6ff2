"""``medseg calibrate``: learn from held-out cases how far a model's probabilities can be trusted.

After ``medseg train fold=all`` (and 'medseg select', where there are several configurations): ``medseg calibrate``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.commands.chosen import chosen_workspace
from medseg.commands.console import Bar, say, table
from medseg.commands.held_out import HeldOut, read_held_out
from medseg.inference.options import DEFAULT_QUALITY, Options, Quality
from medseg.run_record import record_run
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.evaluation.calibration import CalibrationScores
    from medseg.inference.model import Networks
    from medseg.uncertainty.calibration import Calibration, Coverage, Observed, StructureCalibration
    from medseg.uncertainty.familiarity import Familiarity, Seen

_GROUPS = 5
"""Into which the cases of a single fold are parted, to measure on some what the others teach."""


class CalibrateSettings(Settings):
    """Settings of ``medseg calibrate``."""

    workspace: Path | None = None
    """A workspace with trained folds; by default the one last used from here."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default what 'medseg select' has chosen, or the plan's own choice."""
    rate: float = Field(default=0.9, gt=0.5, lt=1)
    """How often a guaranteed contour or interval should hold; the coverage is measured at this rate."""
    quality: Quality = DEFAULT_QUALITY
    """As in 'medseg predict', whose probabilities these are: fast, balanced or best."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""


SETTINGS = (CalibrateSettings,)


def run(words: Mapping[str, str]) -> None:
    """Predict every held-out case by the networks that have not seen it, and write ``calibration.json``."""
    settings = build(CalibrateSettings, words)
    from medseg.evaluation.calibration_pictures import draw_calibration
    from medseg.inference.devices import choose_device
    from medseg.uncertainty.calibration import make_calibration

    started = time.monotonic()
    workspace = chosen_workspace(settings.workspace)
    held_out = read_held_out(workspace, _configurations(workspace.folder, settings.configuration))
    options = Options.of(settings.quality, choose_device(settings.device))
    observed, seen = _observe_all(held_out, options)
    document, (before, after) = make_calibration(observed, held_out.model.labels, held_out.identities, settings.rate)
    document.save(workspace.calibration)
    familiarity = _learn_images(held_out, seen)
    if familiarity is not None:
        familiarity.save(workspace.familiarity)
    else:
        workspace.familiarity.unlink(missing_ok=True)
    picture = workspace.calibration.with_suffix(".png")
    heading = f"{document.cases} held-out cases, voxels that may be in a structure"
    draw_calibration(picture, {"as trained": before, "calibrated": after}, heading)
    sources = {name: "words" if name in words else "default" for name in CalibrateSettings.model_fields}
    facts = {"seconds": round(time.monotonic() - started, 1), "cases": list(held_out.cases)}
    record = workspace.folder / "calibration.run.json"
    record_run(record, "calibrate", words, settings.model_dump(mode="json"), sources, facts)
    _show(document)
    _show_images(familiarity)
    say(f"Picture: {picture}\n{workspace.calibration}: 'medseg predict' and 'medseg bundle' follow it.")


def _configurations(folder: Path, name: str | None) -> tuple[str, ...]:
    from medseg.inference.bundle import open_model

    model = open_model(folder)
    if name is None and model.selection is not None:
        return model.selection.chosen
    return (model.choose(name)[0],)


def _observe_all(held_out: HeldOut, options: Options) -> tuple[list[Observed], list[Seen]]:
    groups = _groups(held_out)
    found = {}
    with Bar() as bar:
        bar.start("Predicting held-out cases", len(held_out.cases))
        for members, _, names in held_out.by_folds(list(held_out.cases), options.device):
            for name in names:
                found[name] = _observe(held_out.cases[name], groups[name], members, options)
                bar.advance()
        bar.finish()
    observed, seen = zip(*(found[name] for name in sorted(found)), strict=True)
    return list(observed), list(seen)


def _learn_images(held_out: HeldOut, seen: list[Seen]) -> Familiarity | None:
    """What the held-out images are like, to the networks of the first configuration."""
    from medseg.uncertainty.familiarity import learn_familiarity
    from medseg.uncertainty.judge import first_stage

    model = held_out.model
    name = first_stage(model.load(next(iter(held_out.identities)), [seen[0].fold])).name
    numbered = [fold for fold in model.weights[name] if isinstance(fold, int)]
    return learn_familiarity(seen, name, model.identity(name, numbered))


def _groups(held_out: HeldOut) -> dict[str, int]:
    """Folds where there are several; else patients are dealt out to five groups."""
    first = next(iter(held_out.folds.values()))
    folds = {name: first[name] for name in held_out.cases}
    if len(set(folds.values())) > 1:
        return folds
    patients = sorted({case.group for case in held_out.cases.values()})
    return {name: patients.index(case.group) % _GROUPS for name, case in held_out.cases.items()}


def _observe(case: Case, group: int, members: list[Networks], options: Options) -> tuple[Observed, Seen]:
    import torch

    from medseg.inference.passes import PreparedImage
    from medseg.inference.predict import probability_rows
    from medseg.uncertainty.calibration import observe_case
    from medseg.uncertainty.judge import observe_image

    labels = members[0].labels
    image = read_case_image(case, len(members[0].plan.channels))
    truth = read_case_labels(case, labels, image)
    prepared = PreparedImage(image, ())
    streams = [probability_rows(image, member, options, case.name, prepared) for member in members]
    rows = (torch.stack(of_each).mean(dim=0) for of_each in zip(*(rows for _, rows in streams), strict=True))
    observed = observe_case(case.name, group, rows, streams[0][0], truth.array, labels)
    return observed, observe_image(prepared, members[0])


def _show(document: Calibration) -> None:
    rows = [
        _row("in doubt, as trained", document.before),
        _row("in doubt, calibrated", document.after),
        _row("all, as trained", document.before_everywhere),
        _row("all, calibrated", document.after_everywhere),
    ]
    columns = ["voxels", "ECE", "adaptive ECE", "Brier", "NLL", "AUROC", "AURC"]
    table(document.headline, columns, rows)
    columns = ["structure", "outer contour", "inner contour", "volume", "Dice bound"]
    rows = [[one.name, *_coverage_cells(one)] for one in document.structures]
    table(f"How often what is guaranteed at {document.rate:g} held [95 % interval]", columns, rows)
    columns = ["structure", "temperature", "outer / inner volume over the true one", "expected and true Dice"]
    table("Each structure", columns, [[one.name, *_structure_cells(one)] for one in document.structures])
    say(document.assumption)


def _show_images(known: Familiarity | None) -> None:
    if known is None:
        say("Too few held-out cases to tell unusual images by (at least 5).")
        return
    folds = ", ".join(str(one.fold) for one in known.features) or "none, which have too few held-out cases"
    say(f"Images are compared with {known.cases} held-out ones; the features of the networks of fold(s) {folds}.")


def _row(name: str, scores: CalibrationScores) -> list[str]:
    auroc = "-" if scores.auroc is None else f"{scores.auroc:.4f}"
    numbers = (scores.ece, scores.adaptive_ece, scores.brier, scores.nll)
    return [name, *(f"{number:.4f}" for number in numbers), auroc, f"{scores.aurc:.5f}"]


def _coverage_cells(one: StructureCalibration) -> list[str]:
    return [_held(one.coverage.get(what)) for what in ("outer", "inner", "volume", "dice")]


def _structure_cells(one: StructureCalibration) -> list[str]:
    ratios = " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in (one.outer_ratio, one.inner_ratio))
    quality = one.quality
    told = "-" if quality is None or quality.pearson is None else f"r {quality.pearson:.2f}, off by {quality.error:.3f}"
    return [f"{one.temperature:.3f}", ratios, told]


def _held(coverage: Coverage | None) -> str:
    if coverage is None:
        return "too few cases"
    return f"{coverage.held / coverage.cases:.3f} [{coverage.low:.3f}, {coverage.high:.3f}]"
