"""``medseg export``: the networks of a model as ONNX or TorchScript, with a JSON that says how to use them.

A few seconds per fold, after training: ``medseg export output=exported``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.cases.case import Case
from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset
from medseg.commands.chosen import FoldChoice, chosen_folds
from medseg.commands.console import say
from medseg.errors import SettingsError
from medseg.paths import Workspace
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.inference.model import Fold, Model
    from medseg.inference.quantize import Calibration

_CASES = 8
"""To set the ranges by, and as many to compare."""


class ExportSettings(Settings):
    """Settings of ``medseg export``."""

    output: Path
    """Folder of the export: new, empty, or an older one, which is then replaced."""
    model: Path | None = None
    """A bundle or a workspace; by default the workspace last used from here."""
    format: Literal["onnx", "torchscript"] = "onnx"
    """onnx also runs in 'medseg predict'; torchscript is for C++ programs that have libtorch."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    folds: FoldChoice = "all"
    """Which networks, such as [0,1]; all takes every fold that is trained."""
    precision: Literal["float32", "int8"] = "float32"
    """int8: eight-bit integers for ONNX Runtime on a CPU, refused where they lose more than 0.005 Dice."""
    calibration: Path | None = None
    """With int8: a dataset (best with labels) whose images set the ranges; by default the workspace's own cases."""


SETTINGS = (ExportSettings,)


def run(words: Mapping[str, str]) -> None:
    """Write the export whole, and say what is in it."""
    settings = build(ExportSettings, words)
    from medseg.inference.bundle import open_model
    from medseg.inference.export import export_model

    model = open_model(settings.model)
    if settings.model is None:
        say(f"Model: {model.folder} (the workspace last used from here)")
    chosen = chosen_folds(settings.folds)
    calibrations = None
    if settings.precision == "int8":
        if settings.format != "onnx":
            raise SettingsError("precision=int8 is for ONNX Runtime. Leave format= out.")
        _, folds = model.choose(settings.configuration, chosen)
        calibrations = {fold: _calibration(settings, model, fold) for fold in folds}
    export = export_model(model, settings.output, settings.format, settings.configuration, chosen, say, calibrations)
    for file in export.networks.values():
        say(f"{settings.output / file}: {_shape(export.input)} -> {_shape(export.output)}")
    say(f"How to prepare images and what to do with the logits: {settings.output / 'export.json'}")
    if settings.format == "onnx":
        say(f"Next: medseg predict model={settings.output} input=DIR output=DIR")


def _calibration(settings: ExportSettings, model: Model, fold: Fold) -> Calibration:
    """Cases for a fold: of a named dataset half and half, of a workspace those it was trained on and those held out."""
    from medseg.inference.quantize import Calibration

    if settings.calibration is not None:
        cases = _all_cases(settings.calibration)
        half = (len(cases) + 1) // 2
        return Calibration(cases[:half][:_CASES], (cases[half:] or cases)[:_CASES])
    workspace = Workspace(model.folder)
    if not workspace.dataset.is_file() or not workspace.folds.is_file():
        raise SettingsError(
            f"{model.folder} holds no cases to set the ranges of eight-bit integers by. Name some with calibration=DIR."
        )
    known = {case.name: case for case in read_dataset(workspace.dataset).cases}
    training, held_out = Folds.load(workspace.folds).split("full" if fold == "full" else int(fold))
    return Calibration(
        [known[name] for name in training[:_CASES]], [known[name] for name in (held_out or training)[:_CASES]]
    )


def _all_cases(path: Path) -> list[Case]:
    """With labels first."""
    dataset = read_dataset(path)
    return [*dataset.cases, *dataset.unlabelled]


def _shape(side: Mapping[str, object]) -> str:
    shape = side["shape"]
    return f"{side['name']} ({', '.join(str(size) for size in shape)})" if isinstance(shape, list) else str(side)
