"""``medseg bundle``: collect the trained folds of a workspace in one folder to carry away.

A second, after training: ``medseg bundle output=my_model``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medseg.commands.chosen import chosen_workspace
from medseg.commands.console import say
from medseg.settings import Settings, build


class BundleSettings(Settings):
    """Settings of ``medseg bundle``."""

    workspace: Path | None = None
    """A folder with trained folds; by default the one last used from here."""
    output: Path
    """Folder of the bundle: new, empty, or an older bundle, which is then replaced."""
    everything: bool = False
    """Take every trained fold along, not only what 'medseg select' has chosen."""


SETTINGS = (BundleSettings,)


def run(words: Mapping[str, str]) -> None:
    """Write the bundle whole, and say what is in it."""
    settings = build(BundleSettings, words)
    from medseg.inference.bundle import write_bundle
    from medseg.inference.card import how_to_use

    workspace = chosen_workspace(settings.workspace)
    model = write_bundle(workspace, settings.output, settings.everything)
    for configuration, folds in model.weights.items():
        say(f"{configuration}: fold(s) {', '.join(str(fold) for fold in folds)}")
    say(f"Bundle: {settings.output}\nNext: {how_to_use(model, str(settings.output))}")
