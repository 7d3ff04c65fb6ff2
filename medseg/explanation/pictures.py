"""A picture of an explanation: the region beside the evidence for it, in up to three orientations.

Knows nothing of files beyond writing a PNG whole. A blank map is drawn as such; a map is drawn from 0 to its largest
value, which stands beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medseg.arrays import Affine, Mask, Spacing
from medseg.evaluation.views import View, choose_views, grey_range, turned
from medseg.files import written_whole

_INK, _FAINT_BELOW = "#222222", 0.02


def draw_explanation(
    path: Path,
    image: NDArray[np.floating],
    region: Mask,
    evidence: Float32[np.ndarray, "Z Y X"],
    spacing: Spacing,
    title: str,
    affine: Affine | None = None,
) -> None:
    """Write a PNG; all arrays are (Z, Y, X) on one grid with ``spacing`` mm (z, y, x).

    With ``affine`` the picture is turned to radiological habit and its sides are marked.
    """
    image, marked, evidence = (turned(one, affine) for one in (image, region.astype(np.uint8), evidence))
    views = choose_views(marked, spacing, affine)
    low, high = grey_range(image, marked)
    largest = float(evidence.max())
    figure = Figure(figsize=(3.4 * len(views) + 1.1, 7.4), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), color=_INK, fontsize=11)
    axes = figure.subplots(2, len(views), squeeze=False)
    shown = None
    for column, view in enumerate(views):
        height, width = view.size_mm
        for ax in axes[:, column]:
            ax.imshow(view.cut(image), cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0))
            ax.set(xticks=[], yticks=[])
            _outline(ax, view, marked)
        axes[0][column].set_title(f"{view.name}: the region", color=_INK, fontsize=10)
        heat = np.ma.masked_less_equal(view.cut(evidence), _FAINT_BELOW * largest)
        if largest > 0:
            shown = axes[1][column].imshow(
                heat, cmap="inferno", vmin=0, vmax=largest, alpha=0.6, extent=(0, width, height, 0)
            )
        note = "evidence" if largest > 0 else "no positive evidence"
        axes[1][column].set_title(note, color=_INK, fontsize=10)
        for ax in axes[:, column]:
            _mark_sides(ax, view)
    if shown is not None:
        figure.colorbar(shown, ax=list(axes[1]), shrink=0.8).set_label("evidence, as the method gives it", color=_INK)
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, dpi=120, format="png", facecolor="white", metadata={"Software": None})


def _outline(ax: Axes, view: View, marked: NDArray[np.uint8]) -> None:
    cut = np.pad(view.cut(marked), 1)
    if cut.any():
        rows, columns = ((np.arange(n) - 0.5) * step for n, step in zip(cut.shape, view.pixel_mm, strict=True))
        ax.contour(columns, rows, cut.astype(float), levels=[0.5], colors=["#56b4e9"], linewidths=1.2)


def _mark_sides(ax: Axes, view: View) -> None:
    if view.marks is not None:
        spots = ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"),
                 (0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"))  # fmt: skip
        for mark, (x, y, ha, va) in zip(view.marks, spots, strict=True):
            ax.text(x, y, mark, transform=ax.transAxes, ha=ha, va=va, color="#ffd95a", fontsize=8)
