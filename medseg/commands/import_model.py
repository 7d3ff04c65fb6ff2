"""``medseg import``: turn a trained nnU-Net v2 model (or one of TotalSegmentator's) into a bundle.

Seconds: ``medseg import nnunet=nnUNet_results/Dataset004_X/nnUNetTrainer__nnUNetPlans__3d_fullres output=my_model``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medseg.commands.console import say
from medseg.settings import Settings, build


class ImportSettings(Settings):
    """Settings of ``medseg import``."""

    nnunet: Path | Annotated[tuple[Path, ...], Field(min_length=1)]
    """A trained model's folder (Trainer__Plans__Configuration), several of them, or the folder around them."""
    output: Path
    """Folder of the bundle: new, empty, or an older bundle, which is then replaced."""


SETTINGS = (ImportSettings,)


def run(words: Mapping[str, str]) -> None:
    """Write the bundle whole, and say what is in it."""
    settings = build(ImportSettings, words)
    from medseg.inference.nnunet_model import import_nnunet

    folders = (settings.nnunet,) if isinstance(settings.nnunet, Path) else settings.nnunet
    imported = import_nnunet(folders, settings.output)
    for remark in imported.remarks:
        say(remark)
    model = imported.model
    for configuration, folds in model.weights.items():
        say(f"{configuration}: fold(s) {', '.join(str(fold) for fold in folds)}, trained by {imported.trainer}")
    say(f"Labels: {', '.join(model.labels.target_names)}; images are taken as {model.plan.orientation}.")
    say(
        f"Bundle: {settings.output}\nNext: medseg predict model={settings.output} input=DIR output=DIR"
        "\n      compat=nnunet gives nnU-Net's own labels, voxel by voxel"
    )
