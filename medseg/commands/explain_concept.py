"""``medseg explain method=tcav``: whether structures depend on a concept that is shown by examples."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.cases.case import Case
from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset
from medseg.commands.console import say, table
from medseg.commands.explained_case import Predicted, held_out_by, named_case, predicted
from medseg.errors import SettingsError
from medseg.explanation.document import ConceptReport, ConceptScore
from medseg.files import folder_written_whole, require_replaceable
from medseg.inference.inputs import find_cases
from medseg.paths import Workspace

if TYPE_CHECKING:
    from medseg.commands.explain import ExplainSettings
    from medseg.explanation.concepts import Example, Vectors
    from medseg.explanation.examples import Box
    from medseg.explanation.target import Target
    from medseg.inference.model import Fold, Model, Networks

_CASES = 10
"""Of the held-out ones, in which structures are looked at and random boxes lie."""
_COLUMNS = ("case", "z0", "z1", "y0", "y1", "x0", "x1")
_SEED = 0


def run_concept(settings: ExplainSettings, model: Model) -> None:
    """Write ``concept.json`` and tell what it says."""
    from medseg.explanation.concepts import judge_concept, vectors_of
    from medseg.explanation.layers import choose_layer
    from medseg.inference.devices import choose_device

    if settings.concept is None:
        raise SettingsError("method=tcav needs examples: concept=DIR of images, or a CSV of boxes in cases.")
    name, folds = model.choose(settings.configuration)
    cases, fold = _cases(settings, model, name, folds)
    device = choose_device(settings.device)
    networks = model.load(name, [fold], device, "torch")
    seen = [predicted(case, networks, device) for case in cases]
    labels = (settings.label,) if settings.label is not None else tuple(model.labels.target_names)
    targets = {label: _targets(label, seen, networks) for label in labels}
    first = next((found[0] for found in targets.values() if found), None)
    if first is None:
        raise SettingsError(f"{', '.join(labels)}: found in none of {len(cases)} case(s), so nothing can be explained.")
    layer = choose_layer(first, settings.layer)
    examples, others = _examples(settings, model, networks, seen)
    concept, random = (vectors_of(networks.networks[0], layer, group) for group in (examples, others))
    scores = {
        label: judge_concept(_slopes(found, layer), concept, random, settings.runs, _SEED)
        for label, found in targets.items()
        if found
    }
    report = ConceptReport(
        concept=str(settings.concept),
        random=str(settings.random),
        configuration=name,
        fold=fold,
        layer=layer,
        cases=tuple(case.name for case in cases),
        seed=_SEED,
        structures=scores,
        absent=tuple(label for label, found in targets.items() if not found),
    )
    output = settings.output or model.folder / "explanations" / f"tcav_{settings.concept.stem}"
    require_replaceable(output, "concept.json")
    with folder_written_whole(output) as folder:
        report.save(folder / "concept.json")
    _show(report, output)


def _cases(settings: ExplainSettings, model: Model, name: str, folds: Sequence[Fold]) -> tuple[list[Case], Fold]:
    """The named case, or held-out ones of the fold that is asked; and the fold."""
    if settings.case is not None:
        case = named_case(settings.case, model)
        return [case], settings.fold if settings.fold is not None else held_out_by(model, name, case.name, folds)
    workspace, fold = Workspace(model.folder), settings.fold if settings.fold is not None else folds[0]
    if not workspace.dataset.is_file() or not workspace.folds.is_file():
        raise SettingsError(f"{model.folder} holds no dataset. Name an image file with case=.")
    held_out = set(Folds.load(workspace.folds).split(fold)[1]) if isinstance(fold, int) else set[str]()
    known = read_dataset(workspace.dataset).cases
    return [case for case in known if case.name in held_out or not held_out][:_CASES], fold


def _targets(label: str, seen: Sequence[Predicted], networks: Networks) -> list[Target]:
    """The structure in every case in which it was found."""
    from medseg.explanation.case import Question, region_of, target_of

    found, table_ = [], networks.labels
    for one in seen:
        place = table_.target_names.index(label) if label in table_.target_names else None
        if place is not None and not table_.targets[place].mask(one.labels).any():
            continue
        region = region_of(Question(label), one.labels, one.image.spacing, table_)
        found.append(target_of(region, label, one.image, one.prepared, one.grid, networks)[0])
    return found


def _slopes(targets: Sequence[Target], layer: str) -> Vectors:
    from medseg.explanation.concepts import slopes_of

    return np.concatenate([slopes_of(target, layer) for target in targets])


def _examples(
    settings: ExplainSettings, model: Model, networks: Networks, seen: Sequence[Predicted]
) -> tuple[list[Example], list[Example]]:
    """Those of the concept, and random ones."""
    from medseg.explanation.examples import random_examples

    assert settings.concept is not None  # asked for before
    shown = _shown(settings.concept, model, networks)
    if settings.random != "automatic":
        return shown, _shown(Path(settings.random), model, networks)
    return shown, random_examples([one.prepared for one in seen], shown, 4 * len(shown), networks, _SEED)


def _shown(path: Path, model: Model, networks: Networks) -> list[Example]:
    """Whole images of a folder, or the boxes of a CSV."""
    from medseg.explanation.examples import example_in

    found = []
    device = next(networks.networks[0].parameters()).device
    for case, boxes in _boxes(path, model):
        one = predicted(case, networks, device)
        found += [example_in(one.image, box, one.prepared, one.grid, networks, case.name) for box in boxes]
    return found


def _boxes(path: Path, model: Model) -> list[tuple[Case, list[Box | None]]]:
    if path.is_dir():
        cases, complaints = find_cases(path, [channel.name for channel in model.plan.channels])
        if complaints:
            raise SettingsError(f"{path}: {complaints[0]}")
        return [(case, [None]) for case in cases]
    if not path.is_file():
        raise SettingsError(f"{path} is neither a folder of images nor a CSV of boxes.")
    by_case: dict[str, list[Box | None]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        if tuple(rows.fieldnames or ()) != _COLUMNS:
            raise SettingsError(f"{path} should begin with the line {','.join(_COLUMNS)}.")
        for number, row in enumerate(rows, start=2):
            try:
                z0, z1, y0, y1, x0, x1 = (int(row[key]) for key in _COLUMNS[1:])
            except (TypeError, ValueError):
                raise SettingsError(
                    f"{path}, line {number}: {','.join(_COLUMNS[1:])} should be whole numbers."
                ) from None
            by_case.setdefault(row["case"], []).append(((z0, y0, x0), (z1, y1, x1)))
    return [(named_case(name, model), boxes) for name, boxes in by_case.items()]


def _show(report: ConceptReport, output: Path) -> None:
    def row(name: str, one: ConceptScore) -> list[str]:
        interval = f"{one.score:.2f} [{one.low:.2f}, {one.high:.2f}]"
        return [name, interval, f"{one.random_score:.2f}", f"{one.p_value:.2g}", one.verdict]

    some = next(iter(report.structures.values()))
    say(
        f"{some.examples} examples of {report.concept}, {some.random_examples} random ones; layer {report.layer}, fold "
        f"{report.fold}, {len(report.cases)} case(s), {some.runs} runs"
    )
    columns = ["structure", "score [95 %]", "random", "p", "verdict"]
    table(
        "Share of places where the score rises along the concept",
        columns,
        [row(*one) for one in report.structures.items()],
    )
    if report.absent:
        say(f"Found in none of the cases: {', '.join(report.absent)}")
    say(f"Numbers: {output}")
