"""Pictures of results: image, labels and prediction side by side; training curves; Dice of every structure.

Knows nothing of files beyond writing a PNG whole. Which slices are shown, and how they lie, is decided in ``views.py``.
Figures are objects of their own (no pyplot), so threads may draw at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medseg.arrays import Affine, Labels, Mask, Spacing
from medseg.cases.labels import LabelTable
from medseg.evaluation.comparison import Compared
from medseg.evaluation.metrics import CaseScores
from medseg.evaluation.palette import COLORS, Color, color_of, colors_of, fractions, topmost
from medseg.evaluation.scores import Scores, rank_cases
from medseg.evaluation.views import View, choose_views, grey_range, turned
from medseg.files import written_whole

_DPI = 130
INK, FAINT = "#222222", "#8a8a8a"
_VEIL = (0.75, 0.75, 0.75, 0.55)
_HALO = withStroke(linewidth=1.6, foreground="black")
_PANEL_INCHES = 3.3
_MOST_INCHES = 11.0
_MOST_NAMES = 24
_BLUE, _ORANGE, _GREEN = (fractions(COLORS[i]) for i in (6, 4, 2))


def draw_case(
    path: Path,
    image: NDArray[np.floating] | None,
    truth: Labels,
    prediction: Labels,
    spacing: Spacing,
    scores: CaseScores,
    table: LabelTable,
    affine: Affine | None = None,
) -> None:
    """``draw_comparison`` of label indices, with the Case's scores in its title and legend.

    Of regions that lie inside one another the innermost is filled; what nobody annotated is veiled.
    """
    names = [
        structure.name if structure.dice is None else f"{structure.name}  {structure.dice:.3f}"
        for structure in scores.structures
    ]
    mean = "" if scores.mean_dice is None else f"mean Dice {scores.mean_dice:.3f}"
    title = "   ".join(part for part in (scores.case, mean) if part)
    unknown = None if table.ignore is None else truth == table.ignore_index
    truth, prediction = topmost(truth, table), topmost(prediction, table)
    draw_comparison(path, image, truth, prediction, spacing, names, colors_of(table.targets), title, affine, unknown)


def draw_comparison(
    path: Path,
    image: NDArray[np.floating] | None,
    truth: Labels | None,
    prediction: Labels,
    spacing: Spacing,
    names: Sequence[str],
    colors: Sequence[Color] | None = None,
    title: str = "",
    affine: Affine | None = None,
    unknown: Mask | None = None,
) -> None:
    """Write a PNG: image, labels and prediction side by side, one row for each of up to three orientations.

    All arrays are (Z, Y, X) on one grid with ``spacing`` mm (z, y, x); labels are numbers of targets. ``names`` and
    ``colors`` are those of number 1 first. ``unknown`` voxels, which nobody annotated, are veiled. With ``affine`` the
    picture is turned to radiological habit and its sides are marked; without it (orientation unknown) arrays are shown
    as stored. The labels' outline is repeated in white over the prediction. Raises MedsegError when the file can't be
    written.
    """
    colors = list(colors) if colors is not None else [color_of(index) for index in range(1, len(names) + 1)]
    prediction = turned(prediction, affine)
    truth = None if truth is None else turned(truth, affine)
    image = None if image is None else turned(image, affine)
    unknown = None if unknown is None else turned(unknown, affine)
    everything = prediction if truth is None else np.where(truth > 0, truth, prediction)
    views = choose_views(everything, spacing, affine)
    grey = (0.0, 1.0) if image is None else grey_range(image, everything)
    columns: list[tuple[str, Labels | None]] = [("image", None)] if image is not None else []
    columns += [("labels", truth)] if truth is not None else []
    columns += [("prediction", prediction)]
    shown = sorted({int(index) for view in views for _, labels in columns if labels is not None
                    for index in np.unique(view.cut(labels)) if index})  # fmt: skip
    figure, axes = _grid(views, len(columns), title, len(shown) + (unknown is not None))
    for row, view in enumerate(views):
        for column, (heading, labels) in enumerate(columns):
            ax = axes[row][column]
            _draw_grey(ax, view, image, grey)
            if labels is not None:
                _draw_structures(ax, view, labels, shown, colors, faint=image is not None)
                _draw_veil(ax, view, unknown)
            for index in shown if heading == "prediction" and truth is not None else ():
                draw_outline(ax, view, truth == index, "white", 0.6)
            note = "prediction (white: labels)" if heading == "prediction" and truth is not None else heading
            _label_panel(ax, view, note if row == 0 else "", first=column == 0)
    _draw_legend(figure, shown, names, colors, veiled=unknown is not None)
    save(path, figure)


def draw_curves(path: Path, rows: Sequence[Mapping[str, float | None]], early_decays: Sequence[int] = ()) -> None:
    """Write a PNG of a training: loss, Dice of patches and of whole held-out Cases, learning rate, over iterations.

    ``rows`` have the keys iteration, loss, dice, learning_rate and optionally held_out_dice; a value may be None. Where
    no row has a Dice (nothing is segmented) its panel is left out.
    ``early_decays`` are the iterations at which a plateau began to end the training.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    without_dice = rows and all(row.get(key) is None for row in rows for key in ("dice", "held_out_dice"))
    widths = {"Loss": 4.0, **({} if without_dice else {"Dice": 4.0}), "Learning rate": 2.4}
    panels = dict(zip(widths, figure.subplots(1, len(widths), width_ratios=tuple(widths.values())), strict=True))
    lines = (
        ("Loss", "loss", "training", _BLUE, "-"),
        ("Dice", "dice", "training patches", _BLUE, "-"),
        ("Dice", "held_out_dice", "whole held-out cases", _ORANGE, "o-"),
        ("Learning rate", "learning_rate", "learning rate", _GREEN, "-"),
    )
    for heading, key, meaning, color, style in lines:
        points = [(row["iteration"] or 0.0, value) for row in rows if (value := row.get(key)) is not None]
        if points:
            ax: Axes = panels[heading]
            x, y = (list(part) for part in zip(*points, strict=True))
            ax.plot(x, y, style, color=color, linewidth=1.6, markersize=3.5, label=meaning)
            if key == "held_out_dice":
                ax.annotate(
                    f"{y[-1]:.3f}", (x[-1], y[-1]), (0, -14), textcoords="offset points", ha="right", color=color
                )
    for heading, ax in panels.items():
        dress(ax, heading)
        ax.set_xlabel("iteration", color=FAINT)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        for iteration in early_decays:
            ax.axvline(iteration, color=FAINT, linestyle=":", linewidth=1.2, label="plateau")
        if heading == "Dice":
            ax.set_ylim(0, 1)
            if ax.lines:
                ax.legend(frameon=False, loc="lower right")
    panels["Learning rate"].yaxis.set_major_formatter("{x:g}")
    save(path, figure)


def draw_candidates(path: Path, candidates: Sequence[Compared], chosen: str) -> None:
    """Write a PNG with the Dice of each candidate and its 95 % interval, the best on top, the chosen one filled."""
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(candidates)), layout="constrained")
    ax = figure.subplots()
    for place, one in enumerate(reversed(candidates)):
        if one.low is not None and one.high is not None:
            ax.plot([one.low, one.high], [place, place], color="#c8c8c8", linewidth=4, solid_capstyle="round")
        filled = _BLUE if one.name == chosen else "white"
        ax.plot(one.dice, place, "o", markersize=9, color=_BLUE, markerfacecolor=filled, markeredgewidth=1.6)
        text = f"{one.dice:.3f}" + (" (chosen)" if one.name == chosen else "")
        ax.annotate(text, (one.dice, place), (0, 8), textcoords="offset points", ha="center", color=INK, fontsize=9)
    ax.set_yticks(range(len(candidates)), [plain(one.name) for one in reversed(candidates)])
    ax.set_ylim(-0.5, len(candidates) - 0.3)
    ax.set_xlabel("mean Dice of held-out cases and its 95 % interval", color=FAINT)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    dress(ax, "Configurations and pairs")
    save(path, figure)


def draw_scores(path: Path, scores: Scores, colors: Sequence[Color] | None = None) -> None:
    """Write a PNG: the Dice of every Case in a row for each structure, with quartiles and the mean's 95 % interval."""
    count = len(scores.structures)
    colors = list(colors) if colors is not None else [color_of(index) for index in range(1, count + 1)]
    figure = Figure(figsize=(8.5, 1.4 + 0.42 * max(count, 2)), layout="constrained")
    ax: Axes = figure.subplots()
    for place, structure in enumerate(scores.structures):
        found = [case.structures[place] for case in scores.cases]
        scored = np.array([item.dice for item in found if item.status == "scored"], dtype=float)
        failed = [0.0 for item in found if item.status in ("missed", "false_alarm")]
        color = fractions(colors[place])
        _draw_strip(ax, place, scored, color)
        ax.plot(failed, [place + shift for shift in jitter(len(failed))], "x", color=INK, markersize=5)
        dice = structure.metrics.get("dice")
        if dice is not None:
            if dice.low is not None and dice.high is not None:
                ax.plot([dice.low, dice.high], [place, place], color=INK, linewidth=2.2, solid_capstyle="butt")
            ax.plot(dice.mean, place, "D", color="white", markeredgecolor=INK, markersize=5.5)
            ax.annotate(f"{dice.mean:.3f}", (1.015, place), xycoords=("axes fraction", "data"), va="center")
    dress(ax, "Dice of every case")
    ax.set_yticks(range(count), [plain(structure.name) for structure in scores.structures])
    ax.set_ylim(count - 0.4, -0.6)
    ax.set_xlim(*_dice_range(scores))
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    handles = [Line2D([], [], marker="D", color=INK, markerfacecolor="white", linewidth=2.2, markersize=5.5)]
    texts = ["mean and its 95 % interval"]
    if any(structure.n_missed + structure.n_false_alarm for structure in scores.structures):
        handles.append(Line2D([], [], marker="x", color=INK, linewidth=0, markersize=5))
        texts.append("missed or false alarm")
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    save(path, figure)


def _grid(views: Sequence[View], columns: int, title: str, structures: int) -> tuple[Figure, Any]:
    """A figure with one black panel for each view and column; all panels of the page have one scale in mm."""
    heights = [view.size_mm[0] for view in views]
    width = max(view.size_mm[1] for view in views)
    inches_per_mm = min(_PANEL_INCHES / width, _MOST_INCHES / sum(heights))
    gap = 0.06
    page_width = max(columns * (width * inches_per_mm + gap) + 0.4, 4.5)
    _, legend_rows = _legend_shape(page_width, min(structures, _MOST_NAMES + 1))
    above, below = 0.62 if title else 0.32, 0.2 + 0.21 * legend_rows
    page = page_width, sum(heights) * inches_per_mm + gap * len(views) + above + below
    figure = Figure(figsize=page)
    axes = figure.subplots(
        len(views),
        columns,
        squeeze=False,
        gridspec_kw={
            "height_ratios": heights,
            "left": 0.35 / page[0],
            "right": 1 - 0.05 / page[0],
            "top": 1 - above / page[1],
            "bottom": below / page[1],
            "wspace": gap / (width * inches_per_mm),
            "hspace": gap / (float(np.mean(heights)) * inches_per_mm),
        },
    )
    figure.suptitle(plain(title), x=0.35 / page[0], y=1 - 0.12 / page[1], ha="left", va="top", color=INK, fontsize=12)
    for row, view in enumerate(views):
        spare = (width - view.size_mm[1]) / 2
        for ax in axes[row]:
            ax.set_facecolor("black")
            ax.set_xlim(-spare, view.size_mm[1] + spare)
            ax.set_ylim(view.size_mm[0], 0)
            ax.set_aspect("equal")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    return figure, axes


def _draw_grey(ax: Axes, view: View, image: NDArray[np.floating] | None, grey: tuple[float, float]) -> None:
    if image is not None:
        _show(ax, view, view.cut(image), cmap="gray", vmin=grey[0], vmax=grey[1])


def _draw_structures(
    ax: Axes, view: View, labels: Labels, shown: Sequence[int], colors: Sequence[Color], faint: bool
) -> None:
    cut = view.cut(labels)
    overlay = np.zeros((*cut.shape, 4))
    for index in shown:
        overlay[cut == index] = (*fractions(colors[index - 1]), 0.4 if faint else 0.75)
    _show(ax, view, overlay)
    for index in shown:
        draw_outline(ax, view, labels == index, fractions(colors[index - 1]), 1.3)


def _draw_veil(ax: Axes, view: View, unknown: Mask | None) -> None:
    if unknown is not None:
        veil = np.zeros((*view.cut(unknown).shape, 4))
        veil[view.cut(unknown)] = _VEIL
        _show(ax, view, veil)


def draw_outline(ax: Axes, view: View, mask: NDArray[np.bool_], color: Any, width: float) -> None:
    """The border of a mask (Z, Y, X) in a view, in mm."""
    cut = np.pad(view.cut(mask), 1)
    if not cut.any():
        return
    rows, columns = ((np.arange(extent) - 0.5) * step for extent, step in zip(cut.shape, view.pixel_mm, strict=True))
    ax.contour(columns, rows, cut.astype(float), levels=[0.5], colors=[color], linewidths=width)


def _show(ax: Axes, view: View, pixels: NDArray[Any], **options: Any) -> None:
    height, width = view.size_mm
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", **options)
    ax.set(xlim=limits[0], ylim=limits[1])


def _label_panel(ax: Axes, view: View, heading: str, first: bool) -> None:
    if heading:
        ax.set_title(heading, color=INK, fontsize=10, pad=4)
    if first:
        ax.set_ylabel(view.name, color=INK, fontsize=10)
    mark_sides(ax, view)


def mark_sides(ax: Axes, view: View) -> None:
    """Write at the borders which side of the patient lies there, if that is known."""
    if view.marks is not None:
        spots = ((0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"),
                 (0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"))  # fmt: skip
        for mark, (x, y, ha, va) in zip(view.marks, spots, strict=True):
            ax.text(x, y, mark, transform=ax.transAxes, ha=ha, va=va, color="#ffd95a", fontsize=8, path_effects=[_HALO])


def _legend_shape(page_width: float, entries: int) -> tuple[int, int]:
    """Columns and rows of a legend below a page this many inches wide."""
    columns = min(max(int(page_width // 1.75), 1), max(entries, 1))
    return columns, -(-entries // columns)


def _draw_legend(
    figure: Figure, shown: Sequence[int], names: Sequence[str], colors: Sequence[Color], veiled: bool
) -> None:
    handles: list[Any] = [Patch(color=fractions(colors[index - 1])) for index in shown[:_MOST_NAMES]]
    texts = [plain(names[index - 1]) for index in shown[:_MOST_NAMES]]
    if len(shown) > _MOST_NAMES:
        handles.append(Line2D([], [], linewidth=0))
        texts.append(f"and {len(shown) - _MOST_NAMES} more")
    if veiled:
        handles.append(Patch(facecolor=_VEIL, edgecolor=FAINT))
        texts.append("not annotated")
    columns, _ = _legend_shape(figure.get_figwidth(), len(texts))
    figure.legend(handles, texts, loc="lower center", ncols=columns, frameon=False, fontsize=9, handlelength=1.4)


def _draw_strip(ax: Axes, place: int, values: NDArray[np.float64], color: Any) -> None:
    dark = tuple(0.8 * part for part in color)
    if values.size:
        ax.boxplot(
            values,
            positions=[place],
            orientation="horizontal",
            widths=0.55,
            showfliers=False,
            showcaps=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": (*color, 0.25), "edgecolor": dark},
            whiskerprops={"color": dark},
            medianprops={"color": dark, "linewidth": 2},
        )
        ax.plot(values, place + jitter(values.size), "o", color=dark, markersize=3.5, alpha=0.75, markeredgewidth=0)


def jitter(count: int) -> NDArray[np.float64]:
    """Small shifts that keep equal points apart, the same every time."""
    return 0.4 * ((np.arange(count, dtype=np.float64) * 0.618034) % 1 - 0.5)


def _dice_range(scores: Scores) -> tuple[float, float]:
    """From 0 where a Case is below 0.4, else from a round number below the worst one, so that differences show."""
    lowest = min((structure.dice for case in rank_cases(scores) for structure in case.structures
                  if structure.dice is not None), default=0.0)  # fmt: skip
    return (-0.02 if lowest < 0.4 else float(np.floor(10 * lowest - 0.5)) / 10, 1.005)


def dress(ax: Axes, heading: str) -> None:
    """What all charts have in common: a heading, and no frame."""
    ax.set_title(heading, loc="left", color=INK, fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c8c8c8")
    ax.tick_params(color="#c8c8c8", labelcolor=INK)
    ax.set_axisbelow(True)


def plain(text: str) -> str:
    """A user's text as it is: dollars start no formula, and a leading underscore hides nothing."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save(path: Path, figure: Figure) -> None:
    """Write a PNG whole. Raises MedsegError when the file can't be written."""
    with written_whole(Path(path)) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png", facecolor="white", metadata={"Software": None})
