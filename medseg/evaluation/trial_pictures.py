"""The picture of a comparison: how good each choice is, and what it costs.

Knows nothing of how the numbers came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg.evaluation.palette import color_of, fractions
from medseg.evaluation.trials import Trials
from medseg.files import written_whole

_GREY = "#c8c8c8"


def draw_trials(path: Path, found: Trials) -> None:
    """Write a PNG: a row for each choice, the best on top, with its Dice and 95 % interval, and a bar for each cost."""
    costs = [cost for cost in _costs(found) if len(set(cost.values)) > 1]
    figure = Figure(figsize=(6.5 + 1.9 * len(costs), 1.5 + 0.36 * len(found.trials)), layout="constrained")
    axes = figure.subplots(1, 1 + len(costs), sharey=True, squeeze=False, width_ratios=(4.2, *(1.5 for _ in costs)))
    ax: Axes = axes[0, 0]
    for place, trial in enumerate(found.trials):
        one, color = trial.metrics["dice"], _color(found, trial.name)
        if one.low is not None and one.high is not None:
            ax.plot([one.low, one.high], [place, place], color=_GREY, linewidth=5, solid_capstyle="round")
        ax.plot(one.dice, place, "o", markersize=8, color=color)
        ax.annotate(f"{one.dice:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        for dice in trial.seeds.values() if len(trial.seeds) > 1 else ():
            ax.plot(dice, place, "|", markersize=9, color=color)
    names = [_plain(trial.name) + (" (reference)" if trial.name == found.reference else "") for trial in found.trials]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(f"mean Dice of {len(found.cases)} held-out cases and its 95 % interval")
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    _dress(ax, f"{found.compared.capitalize()}, fold {found.fold}, {found.budget} each")
    for column, cost in enumerate(costs, start=1):
        _draw_cost(axes[0, column], cost, [_color(found, trial.name) for trial in found.trials])
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png", facecolor="white", metadata={"Software": None})


@dataclass(frozen=True)
class _Cost:
    """One number of each choice, and how it is written."""

    heading: str
    values: Sequence[float]
    format: str = "{:.2f}"


def _costs(found: Trials) -> list[_Cost]:
    trials = found.trials
    on_cpu = all(trial.cpu_seconds_per_iteration is not None for trial in trials)
    seconds = [trial.cpu_seconds_per_iteration or trial.seconds_per_iteration for trial in trials]
    costs = [
        _Cost("CPU s / iteration" if on_cpu else "s / iteration", seconds),
        _Cost("s / case", [trial.seconds_per_case for trial in trials]),
        _Cost("million parameters", [trial.parameters / 1e6 for trial in trials]),
    ]
    memory = [trial.peak_memory_bytes for trial in trials]
    known = [amount / 1e9 for amount in memory if amount is not None]
    return [*costs, _Cost("GB in training", known)] if len(known) == len(trials) else costs


def _draw_cost(ax: Axes, cost: _Cost, colors: Sequence[Any]) -> None:
    ax.barh(range(len(cost.values)), cost.values, height=0.55, color=colors, alpha=0.55)
    for place, value in enumerate(cost.values):
        ax.annotate(
            cost.format.format(value), (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    ax.set_xlim(0, 1.45 * max(cost.values))
    ax.set_xticks([])
    ax.tick_params(left=False)
    _dress(ax, cost.heading)
    ax.spines["bottom"].set_visible(False)


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
