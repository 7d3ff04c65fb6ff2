"""A picture of calibration: reliability diagrams before and after, and the error rate of the most certain voxels.

Knows nothing of files beyond writing a PNG whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseg.evaluation.calibration import BINS, CalibrationCounts, CalibrationScores
from medseg.evaluation.palette import COLORS, fractions
from medseg.files import written_whole

_INK, _BLUE, _ORANGE = "#222222", fractions(COLORS[6]), fractions(COLORS[4])


def draw_calibration(path: Path, counts: Mapping[str, CalibrationCounts], heading: str) -> None:
    """Write a PNG: one reliability diagram for each of the named counts, and their risk-coverage curves together."""
    figure = Figure(figsize=(4 * len(counts) + 4.2, 4.1), layout="constrained")
    figure.suptitle(heading, color=_INK, fontsize=12)
    *diagrams, last = figure.subplots(1, len(counts) + 1)
    for ax, (name, one), color, style in zip(diagrams, counts.items(), (_ORANGE, _BLUE), ("-", "--"), strict=False):
        _draw_reliability(ax, one.scores(), name, color)
        coverage, risk = one.risk_coverage()
        last.plot(coverage, risk, style, color=color, label=f"{name}: area {one.scores().aurc:.4f}")
    last.set(
        title="Error rate of the most certain voxels", xlabel="share of voxels kept", ylabel="error rate", xlim=(0, 1)
    )
    last.set_ylim(bottom=0)
    last.legend(frameon=False, fontsize=9)
    for ax in (*diagrams, last):
        ax.title.set_size(11)
        ax.spines[["top", "right"]].set_visible(False)
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, dpi=130, format="png", facecolor="white", metadata={"Software": None})


def _draw_reliability(ax: Axes, scores: CalibrationScores, name: str, color: tuple[float, float, float]) -> None:
    bins = scores.reliability
    ax.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1, linestyle="--")
    ax.bar(
        [one.confidence for one in bins],
        [one.accuracy for one in bins],
        0.7 / BINS,
        color=(*color, 0.35),
        edgecolor=color,
    )
    ax.plot(
        [one.confidence for one in bins],
        [one.share for one in bins],
        "o",
        color=_INK,
        markersize=3,
        label="share of voxels",
    )
    ax.set(
        title=f"{name}: ECE {scores.ece:.4f}", xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.02)
    )
    ax.legend(frameon=False, fontsize=9, loc="upper left")
