"""The picture of a comparison: how good each choice is, and what it costs.

Knows nothing of how the numbers came about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg.evaluation.palette import color_of, fractions
from medseg.evaluation.trials import Trials
from medseg.files import written_whole

_GREY = "#c8c8c8"


def draw_trials(path: Path, found: Trials) -> None:
    """Write a PNG: Dice with 95 % intervals, and Dice against the time of a training iteration."""
    figure = Figure(figsize=(11, 2.2 + 0.42 * len(found.trials)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    trials = list(reversed(found.trials))
    for place, trial in enumerate(trials):
        one, color = trial.metrics["dice"], _color(found, trial.name)
        if one.low is not None and one.high is not None:
            left.plot([one.low, one.high], [place, place], color=_GREY, linewidth=5, solid_capstyle="round")
        left.plot(one.dice, place, "o", markersize=8, color=color)
        left.annotate(f"{one.dice:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        for dice in trial.seeds.values() if len(trial.seeds) > 1 else ():
            left.plot(dice, place, "|", markersize=9, color=color)
        seconds = _seconds(trial)
        right.plot(seconds, one.dice, "o", markersize=8, color=color)
        right.annotate(_plain(trial.name), (seconds, one.dice), (6, 4), textcoords="offset points", fontsize=8)
    names = [_plain(trial.name) + (" (reference)" if trial.name == found.reference else "") for trial in trials]
    left.set_yticks(range(len(trials)), names)
    left.set_xlabel(f"mean Dice of {len(found.cases)} held-out cases and its 95 % interval")
    right.set_xscale("log")
    right.set_xlabel("processor seconds of a training iteration" if _on_cpu(found) else "seconds of an iteration")
    right.set_ylabel("mean Dice")
    right.margins(x=0.25, y=0.15)
    for ax in (left, right):
        ax.grid(axis="x" if ax is left else "both", color="#e6e6e6", linewidth=0.8)
    _dress(left, f"{found.compared.capitalize()}, fold {found.fold}, {found.budget} each")
    _dress(right, "What it costs")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png", facecolor="white", metadata={"Software": None})


def _dress(ax: Axes, heading: str) -> None:
    ax.set_title(heading, loc="left", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_GREY)
    ax.set_axisbelow(True)


def _plain(text: str) -> str:
    """A loss or network by its name; a dollar would start a formula."""
    return text.replace("$", r"\$")


def _color(found: Trials, name: str) -> Any:
    places = sorted(trial.name for trial in found.trials)
    return fractions(color_of(places.index(name) + 1))


def _on_cpu(found: Trials) -> bool:
    return all(trial.cpu_seconds_per_iteration is not None for trial in found.trials)


def _seconds(trial: Any) -> float:
    return trial.cpu_seconds_per_iteration or trial.seconds_per_iteration
