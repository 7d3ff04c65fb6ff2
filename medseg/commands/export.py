"""``medseg export``: the networks of a model as ONNX or TorchScript, with a JSON that says how to use them.

A few seconds per fold, after training: ``medseg export output=exported``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medseg.commands.chosen import FoldChoice, chosen_folds
from medseg.commands.console import say
from medseg.settings import Settings, build


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
    export = export_model(model, settings.output, settings.format, settings.configuration, chosen, say)
    for file in export.networks.values():
        say(f"{settings.output / file}: {_shape(export.input)} -> {_shape(export.output)}")
    say(f"How to prepare images and what to do with the logits: {settings.output / 'export.json'}")
    if settings.format == "onnx":
        say(f"Next: medseg predict model={settings.output} input=DIR output=DIR")


def _shape(side: Mapping[str, object]) -> str:
    shape = side["shape"]
    return f"{side['name']} ({', '.join(str(size) for size in shape)})" if isinstance(shape, list) else str(side)
