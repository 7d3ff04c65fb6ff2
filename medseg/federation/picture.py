"""The picture of a comparison: every model's Dice at every site, and how it rose over the rounds.

Knows nothing of how the numbers came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medseg.evaluation.palette import color_of, fractions
from medseg.federation.comparison import Comparison, Row
from medseg.files import written_whole

_GREY = "#c8c8c8"
_INK = "#303030"


def draw_comparison(path: Path, comparison: Comparison, courses: Mapping[str, Sequence[float | None]]) -> None:
    """Write a PNG: a row for each model with a dot for each site, and the sites' mean Dice after every round."""
    figure = Figure(figsize=(12, 2.4 + 0.5 * len(comparison.rows)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [row.model for row in comparison.rows]
    for place, row in enumerate(reversed(comparison.rows)):
        _draw_row(left, place, row, comparison)
    left.set_yticks(range(len(names)), list(reversed(names)))
    left.set_ylim(-0.6, len(names) - 0.4)
    left.set_xlabel("Dice of held-out cases; black: mean of the sites, open: took no part")
    for number, site in enumerate(comparison.sites):
        left.plot([], [], "o", color=fractions(color_of(number + 1)), label=site)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=8, fontsize=8, frameon=False)
    for model, course in courses.items():
        known = [(number, value) for number, value in enumerate(course) if value is not None]
        if len(known) > 1:
            color = fractions(color_of(names.index(model) + 1))
            right.plot(*zip(*known, strict=True), "o-", markersize=4, color=color, label=model)
    right.set_xlabel("rounds")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel("mean Dice of the sites")
    right.legend(fontsize=8, frameon=False)
    _dress(left, "Every model at every site")
    _dress(right, "Over the rounds")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png", facecolor="white", metadata={"Software": None})


def _draw_row(ax: Axes, place: int, row: Row, comparison: Comparison) -> None:
    for number, site in enumerate(comparison.sites):
        cell, color = row.cells.get(site), fractions(color_of(number + 1))
        if cell is None:
            continue
        height = place + 0.12 * (number - (len(comparison.sites) - 1) / 2)
        if cell.low is not None and cell.high is not None:
            ax.plot([cell.low, cell.high], [height, height], color=_GREY, linewidth=2)
        ax.plot(cell.dice, height, "o", markersize=6, color=color)
    mean = row.mean(comparison.sites)
    if mean is not None:
        ax.plot([mean, mean], [place - 0.32, place + 0.32], color=_INK, linewidth=2)
    outside = row.cells.get(comparison.left_out or "")
    if outside is not None:
        ax.plot(outside.dice, place, "o", markersize=8, markerfacecolor="none", markeredgecolor=_INK)


def _dress(ax: Axes, heading: str) -> None:
    ax.set_title(heading, loc="left", fontsize=11)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_GREY)
    ax.set_axisbelow(True)
