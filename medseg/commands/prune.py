"""``medseg prune``: what a trained U-Net++ loses and wins when cut down to its first levels; writes the one chosen.

A minute on a CPU after training a U-Net++: ``medseg prune`` and then ``medseg prune level=2 output=DIR``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import PositiveInt

from medseg.cases.case import read_case_labels
from medseg.commands.chosen import chosen_workspace
from medseg.commands.console import Bar, say, table
from medseg.commands.held_out import HeldOut, read_held_out
from medseg.errors import SettingsError
from medseg.evaluation.comparison import Compared, compare, target_dice
from medseg.planning.memory import forward_flops, parameter_count
from medseg.progress import Progress, Silent
from medseg.settings import Settings, build

if TYPE_CHECKING:
    import torch

    from medseg.inference.model import Networks
    from medseg.inference.options import Options


class PruneSettings(Settings):
    """Settings of ``medseg prune``."""

    workspace: Path | None = None
    """A folder with trained folds of a U-Net++; by default the one last used from here."""
    configuration: str | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    level: PositiveInt | None = None
    """How many levels below the finest are kept; without it nothing is written."""
    output: Path | None = None
    """Where the bundle of that level is written: a new or empty folder, or an older bundle, which is then replaced."""
    cases: PositiveInt = 20
    """How many held-out cases are predicted with every level."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""


SETTINGS = (PruneSettings,)


@dataclass
class _Level:
    """What one level has shown."""

    parameters: int
    flops: int
    dice: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def run(words: Mapping[str, str]) -> None:
    """Predict held-out cases with every level, compare them, and write the chosen one."""
    settings = build(PruneSettings, words)
    if (settings.level is None) != (settings.output is None):
        raise SettingsError("Give level= and output= together, or neither to see what each level is worth.")
    workspace = chosen_workspace(settings.workspace)
    from medseg.inference.bundle import open_model, require_replaceable
    from medseg.inference.devices import choose_device
    from medseg.inference.pruning import levels_of, write_pruned

    model = open_model(workspace.folder)
    name, folds = model.choose(settings.configuration)
    levels = levels_of(model.load(name, folds[:1]).configuration.network)
    if settings.level is not None and settings.level not in levels:
        raise SettingsError(f"level={settings.level} should be one of {', '.join(map(str, levels))}.")
    if settings.output is not None:
        require_replaceable(settings.output)
    held_out = read_held_out(workspace, [name])
    with Bar() as bar:
        found = _measure(held_out, levels, settings.cases, choose_device(settings.device), bar)
    compared = compare({str(level): np.array(one.dice) for level, one in found.items()}, str(levels[-1]))
    by_level = {int(one.name): one for one in compared}
    _show(found, by_level)
    if settings.level is None or settings.output is None:
        say("Next: medseg prune level=N output=DIR")
        return
    one = by_level[settings.level]
    lost = {"level": settings.level, "dice": one.dice, "dice_of_all": by_level[levels[-1]].dice}
    lost["cases"] = len(found[settings.level].dice)
    write_pruned(model, name, folds, settings.level, settings.output, {"pruned": lost})
    say(f"Bundle: {settings.output}\nNext: medseg predict model={settings.output} input=DIR output=DIR")


def _measure(
    held_out: HeldOut, levels: range, most: int, device: torch.device, progress: Progress
) -> dict[int, _Level]:
    """Every level on the same Cases, one Case after the other, so that their times can be compared."""
    from medseg.inference.options import Options
    from medseg.inference.predict import predict_case
    from medseg.inference.pruning import cut_down

    names = list(held_out.cases)
    names = [names[i] for i in sorted({round(i) for i in np.linspace(0, len(names) - 1, min(most, len(names)))})]
    options, found = Options(device), dict[int, _Level]()
    progress.start("Predicting", len(names))
    for (whole,), _, members in held_out.by_folds(names, device):
        cut = {level: cut_down(whole, level) for level in levels}
        for level, networks in cut.items():
            found.setdefault(level, _cost(networks))
        predict_case(held_out.cases[members[0]], whole, options, Silent())  # what is loaded once is not counted
        for name in members:
            for level, networks in cut.items():
                _predict(held_out, name, networks, options, found[level])
            progress.advance()
    progress.finish()
    return found


def _predict(held_out: HeldOut, name: str, networks: Networks, options: Options, level: _Level) -> None:
    from medseg.inference.predict import predict_case

    case, started = held_out.cases[name], time.perf_counter()
    prediction = predict_case(case, networks, options, Silent())
    level.seconds.append(time.perf_counter() - started)
    truth = read_case_labels(case, networks.labels, prediction.image)
    level.dice.append(target_dice(prediction.indices, truth.array, networks.labels))


def _cost(networks: Networks) -> _Level:
    plan, classes = networks.configuration, networks.labels.outputs
    channels = len(networks.plan.channels)
    flops = forward_flops(plan.network, plan.patch_size, channels, classes)
    return _Level(parameter_count(plan.network, channels, classes), flops)


def _show(found: Mapping[int, _Level], compared: Mapping[int, Compared]) -> None:
    columns = ["level", "parameters", "GFLOP/patch", "s/case", "Dice [95 %]", "difference to all [95 %]", "p"]
    whole, rows = max(found), []
    for level, one in found.items():
        dice = compared[level]
        difference = f"{dice.difference:+.4f}{_span(dice.difference_low, dice.difference_high)}"
        rows.append(
            [
                f"{level}{' (all)' if level == whole else ''}",
                f"{one.parameters:,}",
                f"{one.flops / 1e9:.2f}",
                f"{np.mean(one.seconds):.2f}",
                f"{dice.dice:.4f}{_span(dice.low, dice.high)}",
                "-" if level == whole else difference,
                "-" if dice.p_value is None else f"{dice.p_value:.2g}",
            ]
        )
    cases = len(next(iter(found.values())).dice)
    table(f"Cut down to so many levels below the finest; {cases} held-out cases", columns, rows)


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
