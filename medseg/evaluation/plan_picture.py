"""A picture of a Plan: what was measured of the Dataset, and the patch of each configuration over the median Case.

Knows nothing of how the numbers were found, nor of files beyond writing a PNG whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medseg.arrays import Affine, Labels, Spacing, Triple
from medseg.cases.labels import LabelTable
from medseg.evaluation.palette import COLORS, fractions, topmost
from medseg.evaluation.pictures import FAINT, INK, draw_outline, dress, jitter, mark_sides, plain, save
from medseg.evaluation.views import View, choose_views, grey_range, turned
from medseg.images.orientation import to_canonical
from medseg.planning.fingerprint import ChannelIntensities, Fingerprint
from medseg.planning.plan import ConfigurationPlan, Plan

_PATCHES = tuple(fractions(COLORS[i]) for i in (1, 0, 5, 2))
_BLUE, _ORANGE = fractions(COLORS[6]), fractions(COLORS[4])
_OUTLINE = "#f2f2f2"
_PAGE, _ABOVE = 12.0, 3.8
"""Inches: the page's width, and the height of what was measured."""
_MOST_CHANNELS = 4
_Range = tuple[float, float]
_ANATOMY = ("foot - head", "back - front", "left - right")
"""Of the canonical axes z, y, x."""


def draw_plan(
    path: Path,
    fingerprint: Fingerprint,
    plan: Plan,
    table: LabelTable,
    name: str,
    image: NDArray[np.floating],
    labels: Labels,
    spacing: Spacing,
) -> None:
    """Write a PNG: spacings, sizes and intensities of all Cases above, the patches over one prepared Case below.

    ``image`` and ``labels`` (label indices) are (Z, Y, X) in network axes at ``spacing`` mm; ``name`` is the Case's.
    Raises MedsegError when the file can't be written.
    """
    pictured = _Pictured(plan, table, image, labels, spacing)
    height = pictured.inches
    figure = Figure(figsize=(_PAGE, _ABOVE + height), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(_ABOVE, height))
    above, below = parts
    channels = fingerprint.channels[:_MOST_CHANNELS]
    panels = above.add_gridspec(len(channels), 3)
    axes = _axis_names(plan)
    _draw_spacings(above.add_subplot(panels[:, 0]), fingerprint, plan, axes)
    _draw_sizes(above.add_subplot(panels[:, 1]), fingerprint, plan, axes)
    for row, channel in enumerate(channels):
        _draw_intensities(above.add_subplot(panels[row, 2]), channel, first=row == 0, last=row == len(channels) - 1)
    above.suptitle(plain(f"{plan.dataset}: {len(fingerprint.cases)} cases"), x=0.01, ha="left", color=INK, fontsize=13)
    below.suptitle(
        plain(f"What a network sees at once, its patch, drawn over the median case '{name}'"),
        x=0.01,
        ha="left",
        color=INK,
        fontsize=13,
    )
    pictured.draw(below)
    save(path, figure)


def _axis_names(plan: Plan) -> list[str]:
    """Of the network's axes, the first one first."""
    if plan.orientation != "canonical":
        return [f"stored axis {axis}" for axis in plan.axis_order]
    return [_ANATOMY[axis] for axis in plan.axis_order]


def _in_order(values: Triple | Spacing, plan: Plan) -> list[float]:
    return [float(values[axis]) for axis in plan.axis_order]


def _draw_spacings(ax: Axes, fingerprint: Fingerprint, plan: Plan, axes: Sequence[str]) -> None:
    found = np.array([_in_order(case.spacing, plan) for case in fingerprint.cases])
    target = plan.configurations[plan.default_configuration].spacing
    _draw_strips(ax, found, target, axes)
    _dress_strips(ax, "Voxel spacing in the files", "mm", found)
    ax.legend(
        _strip_handles(),
        ["a case", f"resampled to, in {plan.default_configuration}"],
        loc="upper right",
        frameon=False,
        fontsize=8,
    )


def _draw_sizes(ax: Axes, fingerprint: Fingerprint, plan: Plan, axes: Sequence[str]) -> None:
    default = plan.configurations[plan.default_configuration]
    found = np.array(
        [
            [n * mm for n, mm in zip(_in_order(case.cropped_shape, plan), _in_order(case.spacing, plan), strict=True)]
            for case in fingerprint.cases
        ]
    )
    patch = [n * mm for n, mm in zip(default.patch_size, default.spacing, strict=True)]
    _draw_strips(ax, found, patch, axes)
    _dress_strips(ax, "Size of the images (without empty borders)", "mm", found)
    ax.legend(
        _strip_handles(),
        ["a case", f"patch of {plan.default_configuration}"],
        loc="upper right",
        frameon=False,
        fontsize=8,
    )


def _draw_strips(ax: Axes, found: NDArray[np.float64], marks: Sequence[float], axes: Sequence[str]) -> None:
    for row, (values, mark) in enumerate(zip(found.T, marks, strict=True)):
        ax.plot(values, row + jitter(len(values)), "o", color=_BLUE, markersize=3.5, alpha=0.5, markeredgewidth=0)
        ax.plot(mark, row, "D", color=_ORANGE, markersize=8, markeredgecolor="white")
        ax.annotate(
            f"{mark:.3g}",
            (mark, row),
            (0, 10),
            textcoords="offset points",
            ha="center",
            color=_ORANGE,
            fontsize=10,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    ax.set_yticks(range(3), axes)
    ax.set_ylim(2.6, -1.1)


def _strip_handles() -> list[Line2D]:
    return [
        Line2D([], [], marker="o", color=_BLUE, linewidth=0, markersize=4),
        Line2D([], [], marker="D", color=_ORANGE, linewidth=0),
    ]


def _dress_strips(ax: Axes, heading: str, unit: str, found: NDArray[np.float64]) -> None:
    dress(ax, heading)
    ax.set_xlabel(unit, color=FAINT)
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    if found.max() > 4 * found.min():
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}" if found.max() < 12 * found.min() else "")
        ax.tick_params(which="minor", labelsize=7)


def _draw_intensities(ax: Axes, channel: ChannelIntensities, first: bool, last: bool) -> None:
    low, high = channel.percentile_00_5, channel.percentile_99_5
    counts = np.array(channel.histogram or (1,), dtype=np.float64)
    edges = np.linspace(low, high, len(counts) + 1)
    ax.fill_between(edges[:-1], counts / counts.max(), step="post", color=(*_BLUE, 0.25), linewidth=0)
    ax.step(edges[:-1], counts / counts.max(), where="post", color=_BLUE, linewidth=1.2)
    ax.axvline(channel.mean, color=_ORANGE, linewidth=1.6)
    ax.axvspan(channel.mean - channel.std, channel.mean + channel.std, color=(*_ORANGE, 0.1), linewidth=0)
    dress(ax, "Intensities of the structures" if first else "")
    ax.set(yticks=[], ylim=(0, 1.35), **({"xlim": (low, high)} if low < high else {}))
    if first:
        handles = [Line2D([], [], color=_ORANGE, linewidth=1.6), Rectangle((0, 0), 1, 1, color=(*_ORANGE, 0.2))]
        ax.legend(handles, ["mean", "standard deviation"], loc="upper right", frameon=False, fontsize=8)
    ax.set_ylabel(plain(channel.name), color=INK)
    if last:
        ax.set_xlabel("intensity", color=FAINT)


class _Pictured:
    """One Case with the patches over it, as it lies on the page."""

    def __init__(
        self, plan: Plan, table: LabelTable, image: NDArray[np.floating], labels: Labels, spacing: Spacing
    ) -> None:
        affine = _affine_of(plan, spacing)
        self._order = to_canonical(affine)[0] if affine is not None else (0, 1, 2)
        self._image, self._labels = turned(image, affine), topmost(turned(labels, affine), table)
        self._views = [_whole(view, self._image.shape) for view in choose_views(self._labels, spacing, affine)]
        self._patches = _distinct_patches(plan)
        placed = [[self._place(view, one) for _, one in self._patches] for view in self._views]
        self._rectangles = placed
        self._limits = [_limits(view, found) for view, found in zip(self._views, placed, strict=True)]

    @property
    def _widths(self) -> list[float]:
        return [right - left for _, (left, right) in self._limits]

    @property
    def inches(self) -> float:
        """Height on a page, headings and legend included; all views have one scale."""
        tallest = max(bottom - top for (top, bottom), _ in self._limits)
        return tallest / sum(self._widths) * (_PAGE - 0.4) + 0.9 + 0.22 * (len(self._patches) + 1)

    def draw(self, page: Any) -> None:
        """Draw every view, and a legend below them."""
        panels = page.subplots(1, len(self._views), squeeze=False, width_ratios=self._widths)[0]
        grey = grey_range(self._image, self._labels)
        for ax, view, found, (rows, columns) in zip(panels, self._views, self._rectangles, self._limits, strict=True):
            height, width = view.size_mm
            ax.imshow(view.cut(self._image), cmap="gray", vmin=grey[0], vmax=grey[1], extent=(0, width, height, 0))
            for index in np.unique(view.cut(self._labels)):
                if index:
                    draw_outline(ax, view, self._labels == index, _OUTLINE, 0.9)
            for color, (top, left, tall, wide) in zip(_PATCHES, found, strict=False):
                ax.add_patch(Rectangle((left, top), wide, tall, fill=False, edgecolor=color, linewidth=2.4))
            ax.set_title(view.name, color=INK, fontsize=10)
            ax.set_facecolor("black")
            ax.set(xticks=[], yticks=[], xlim=columns, ylim=rows[::-1])
            ax.set_aspect("equal")
            mark_sides(ax, view)
        handles = [
            Line2D([], [], color=color, linewidth=2.4) for color, _ in zip(_PATCHES, self._patches, strict=False)
        ]
        texts = [_describe(names, one) for names, one in self._patches]
        handles.append(Line2D([], [], color="#b0b0b0", linewidth=1))
        page.legend(handles, [*texts, "structures (white)"], loc="outside lower left", frameon=False, fontsize=10)

    def _place(self, view: View, configuration: ConfigurationPlan) -> tuple[float, float, float, float]:
        """Top, left, height and width in mm: around the structures, but inside the image as far as the patch fits."""
        places = np.argwhere(view.cut(self._labels) > 0)
        middle = places.mean(0) if len(places) else np.array(view.cut(self._labels).shape) / 2
        sizes = [_millimetres(configuration)[self._order[axis]] for axis in range(3) if axis != view.axis]
        top, left = (
            float(np.clip((at + 0.5) * mm - size / 2, 0, extent - size)) if size < extent else (extent - size) / 2
            for at, mm, size, extent in zip(middle, view.pixel_mm, sizes, view.size_mm, strict=True)
        )
        return top, left, sizes[0], sizes[1]


def _limits(view: View, rectangles: Sequence[tuple[float, float, float, float]]) -> tuple[_Range, _Range]:
    """Rows and columns in mm that show the slice and all patches."""
    height, width = view.size_mm
    top = min(0.0, *(rectangle[0] for rectangle in rectangles))
    left = min(0.0, *(rectangle[1] for rectangle in rectangles))
    bottom = max(height, *(rectangle[0] + rectangle[2] for rectangle in rectangles))
    right = max(width, *(rectangle[1] + rectangle[3] for rectangle in rectangles))
    margin = 0.02 * max(bottom - top, right - left)
    return (top - margin, bottom + margin), (left - margin, right + margin)


def _affine_of(plan: Plan, spacing: Spacing) -> Affine | None:
    """From network axes to the patient; None where the Plan takes axes as stored."""
    if plan.orientation != "canonical":
        return None
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (canonical, mm) in enumerate(zip(plan.axis_order, spacing, strict=True)):
        affine[2 - canonical, axis] = mm
    return affine


def _whole(view: View, shape: Sequence[int]) -> View:
    rows, columns = (n for axis, n in enumerate(shape) if axis != view.axis)
    return replace(view, window=(slice(0, rows), slice(0, columns)))


def _distinct_patches(plan: Plan) -> list[tuple[str, ConfigurationPlan]]:
    """Configurations, largest patch first; those that see the same are named together."""
    found: dict[tuple[Triple, Spacing, int], list[str]] = {}
    for name, one in plan.configurations.items():
        found.setdefault((one.patch_size, one.spacing, one.dimensions), []).append(name)
    joined = [(", ".join(names), plan.configurations[names[0]]) for names in found.values()]
    return sorted(joined, key=lambda pair: -np.prod(_millimetres(pair[1])))


def _millimetres(configuration: ConfigurationPlan) -> tuple[float, float, float]:
    z, y, x = (n * mm for n, mm in zip(configuration.patch_size, configuration.spacing, strict=True))
    return z, y, x


def _describe(names: str, configuration: ConfigurationPlan) -> str:
    voxels, sizes = (
        "x".join(map(str, configuration.patch_size)),
        "x".join(f"{mm:.0f}" for mm in _millimetres(configuration)),
    )
    batch, width = configuration.batch_size, configuration.network.features[0]
    return f"{names}: {voxels} voxels = {sizes} mm, {batch} at a time; {width} channels in the first stage"
