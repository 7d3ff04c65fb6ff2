"""The Case in the middle: how it is looked at, its planes, and what lies under the cursor."""

from dataclasses import replace
from functools import partial

import session
import streamlit as st
from compare_panel import Comparison
from explain_panel import explanation_words
from findings_panel import Panel
from interactive import first_kind, interactive_view
from picture import show_picture
from texts import plain, text

from medseg.arrays import Triple
from medseg.errors import MedsegError
from medseg.review.alignment import AlignedCase
from medseg.review.asking import Explained
from medseg.review.cache import OpenCase
from medseg.review.case import Finding
from medseg.review.numbers import distance_mm, under
from medseg.review.overlays import heat_legend, heat_range
from medseg.review.slices import PLANES, Plane
from medseg.review.view import Heat, View, draw_plane, frame_of
from medseg.review.windows import Window, windows_of

_LARGE, _SMALL = 760, 420
"""Pixels of the longer side of a picture alone, and of one beside others."""
_HIGH, _HALF = 64, 28
"""Hundredths of the window's height that they take."""


@st.cache_resource(max_entries=16, show_spinner=False)
def _windows(_one: OpenCase, source: str, channel: int) -> dict[str, Window]:  # noqa: ARG001 (the key)
    return windows_of(_one.record.channels[channel], _one.sample(channel))


@st.cache_resource(max_entries=16, show_spinner=False)
def _range(_one: OpenCase, source: str, path: str) -> tuple[float, float]:  # noqa: ARG001 (the key)
    from pathlib import Path

    return heat_range(_one.map(Path(path)))


def show_case(one: OpenCase, panel: Panel, explained: Explained | None, comparison: Comparison) -> None:
    """Draw the interactive view where it works, else the slices."""
    if "kind" not in st.session_state:
        st.session_state["kind"] = first_kind()
    kind = st.segmented_control(
        text("view.kind"),
        ["slices", "interactive"],
        required=True,
        format_func=lambda one: text(f"view.{one}"),
        key="kind",
        label_visibility="collapsed",
    )
    _show(one, panel, str(kind), explained, comparison)


@st.fragment
def _show(one: OpenCase, panel: Panel, kind: str, explained: Explained | None, comparison: Comparison) -> None:
    view = replace(_view(one, panel, explained), difference=comparison.difference)
    if comparison.difference is not None:
        # Colours of a difference would mix with those of a map to ones that no legend has.
        view = replace(view, heat=None, difference=replace(comparison.difference, opacity=view.opacity))
    if kind == "interactive":
        compares = comparison.difference is not None or comparison.beside
        reason = text("interactive.compares") if compares else interactive_view(one, view)
        if reason is None:
            if one.is_thinned:
                coarse = max(step * own for step, own in zip(one.record.stride, one.spacing, strict=True))
                told = text("interactive.thinned", coarse=f"{coarse:.2g}", own=f"{max(one.spacing):.2g}")
                st.warning(told, icon=":material/blur_on:")
            if view.heat is not None:
                _legend(view.heat)
            return
        st.info(plain(reason))
    try:
        _beside(one, view, *comparison.beside) if comparison.beside else _planes(one, view)
    except (MedsegError, OSError) as error:
        st.error(plain(error))
        return
    _readout(one, view)
    if view.heat is not None:
        _legend(view.heat)


def _view(one: OpenCase, panel: Panel, explained: Explained | None) -> View:
    """The controls above the picture."""
    windows = _windows(one, one.record.source, panel.channel)
    left, middle, right = st.columns([4, 3, 3], gap="small")
    name = left.selectbox(text("view.window"), [*windows, "manual"], format_func=_window_text, key="window")
    opacity = middle.slider(text("view.opacity"), 0.0, 1.0, 0.45, 0.05, key="opacity")
    zoom = right.select_slider(text("view.zoom"), [1, 2, 3, 4, 6, 8], key="zoom", format_func=lambda at: f"{at}x")
    window = _manual(next(iter(windows.values()))) if name == "manual" else windows[name]
    first, second, _ = st.columns([2, 2, 6], gap="small", vertical_alignment="center")
    outline = first.toggle(text("view.outline"), key="outline")
    cross = second.toggle(text("view.cross"), value=True, key="cross")
    heat = _heat(one, panel, explained)
    return View(
        window=window,
        place=session.place_in(one),
        channel=panel.channel,
        finding=panel.finding,
        shown=panel.shown,
        colors=panel.colors,
        opacity=opacity,
        outline=outline or heat is not None,  # a fill would hide the map
        heat=heat,
        zoom=float(zoom),
        cross=cross,
        ruler=session.ruler(),
    )


def _manual(start: Window) -> Window:
    left, right = st.columns(2)
    centre = left.number_input(text("view.level"), value=float(start.centre), key="level")
    width = right.number_input(text("view.width"), value=float(start.width), min_value=0.001, key="width")
    return Window(centre=centre, width=width)


def _heat(one: OpenCase, panel: Panel, explained: Explained | None) -> Heat | None:
    """The map over the image: an explanation that was chosen on the right, else one of uncertainty."""
    maps = dict(panel.finding.maps) if panel.finding is not None else {}
    if not maps and explained is None:
        return None
    left, right = st.columns(2, gap="small")
    if explained is not None:
        maps, name = {"explanation": explained.map}, "explanation"
        left.caption(text("explain.shown", name=plain(explanation_words(explained))))
    else:
        name = left.selectbox(text("view.map"), [None, *maps], format_func=_map_text, key="map")
    if name is None:
        return None
    low, high = _range(one, one.record.source, str(maps[name]))
    high = right.slider(text("view.up_to"), low, high, high, key=f"up_to_{name}", format="%.3f") or high
    return Heat(maps[name], low, max(high, 1e-6), st.session_state["opacity"], _map_text(name))


def _planes(one: OpenCase, view: View) -> None:
    layout = st.segmented_control(
        text("view.layout"),
        ["three", *PLANES],
        default="three" if min(one.shape) > 1 else PLANES[one.shape.index(min(one.shape))],
        required=True,
        format_func=lambda name: text(f"plane.{name}"),
        key="layout",
        label_visibility="collapsed",
    )
    if layout != "three":
        _plane(one, view, layout, _LARGE, _HIGH)
        return
    left, right = st.columns([3, 2], gap="small")
    with left:
        _plane(one, view, "axial", _LARGE, _HIGH)
    with right:
        _plane(one, view, "coronal", _SMALL, _HALF)
        _plane(one, view, "sagittal", _SMALL, _HALF)


def _plane(one: OpenCase, view: View, plane: Plane, size: int, height: int) -> None:
    frame, key = frame_of(one, view, plane, size), f"picture_{plane}"
    at, count = view.place[frame.axis], one.shape[frame.axis]
    show_picture(
        draw_plane(one, view, plane, size),
        key,
        title=_title(plane, at, count),
        readout=_pointed(one, view, plane),
        height=height,
        on_clicked=partial(session.clicked, key, frame),
        on_scrolled=partial(session.scrolled, key, one, frame),
        on_rested=partial(session.rested, key, frame),
    )
    if count > 1:
        slider = f"slice_{plane}"
        st.session_state[slider] = at + 1
        st.slider(
            _title(plane, at, count),
            1,
            count,
            key=slider,
            on_change=partial(session.slid, slider, frame.axis),
            label_visibility="collapsed",
        )


def _title(plane: Plane, at: int, count: int) -> str:
    return text("plane.slice", plane=text(f"plane.{plane}"), number=at + 1, count=count)


def _beside(one: OpenCase, view: View, other: OpenCase | AlignedCase, finding: Finding | None) -> None:
    """The same plane of two examinations: of the same place where they are aligned, else as far of the way through."""
    plane = st.segmented_control(
        text("view.layout"),
        PLANES,
        default="axial",
        required=True,
        format_func=lambda name: text(f"plane.{name}"),
        key="beside_plane",
        label_visibility="collapsed",
    )
    if isinstance(other, AlignedCase):
        known, read, place = other.known, other.moving, view.place
        turn, shift, shared = f"{known.turn_degrees:.1f}", f"{known.shift_mm:.0f}", f"{known.overlap:.0%}"
        st.caption(text("compare.aligned", turn=turn, shift=shift, shared=shared))
    else:
        read, place = other, _as_far(view, one, other)
        st.warning(text("compare.beside"), icon=":material/warning:")
    left, right = st.columns(2, gap="small")
    with left:
        st.markdown(f"**{plain(one.case.name)}**")
        _plane(one, view, plane, _LARGE, _HIGH)
    windows = _windows(read, read.record.source, 0)
    window = windows.get(str(st.session_state.get("window")), view.window)
    seen = replace(view, place=place, finding=finding, channel=0, heat=None, ruler=None, window=window)
    with right:
        st.markdown(f"**{plain(read.case.name)}**")
        at = PLANES.index(plane)
        # What is aligned lies on the first image's grid, whose slices it does not have itself.
        aligned = isinstance(other, AlignedCase)
        title = text(f"plane.{plane}") if aligned else _title(plane, place[at], other.shape[at])
        show_picture(draw_plane(other, seen, plane, _LARGE), "picture_beside", title, "", _HIGH)


def _as_far(view: View, one: OpenCase, other: OpenCase) -> Triple:
    """The voxel of the other image at the same share of the way through on each axis."""
    shares = (at / max(extent - 1, 1) for at, extent in zip(view.place, one.shape, strict=True))
    z, y, x = (round(share * (extent - 1)) for share, extent in zip(shares, other.shape, strict=True))
    return z, y, x


def _pointed(one: OpenCase, view: View, plane: Plane) -> str:
    """What lies under the pointer, where it rests over this plane."""
    pointer = session.pointer()
    if pointer is None or pointer[0] != plane:
        return ""
    found = under(one, pointer[1], view.channel, view.finding)
    x, y, z = found.position_mm
    return text("view.under", intensity=f"{found.intensity:g}", x=f"{x:.1f}", y=f"{y:.1f}", z=f"{z:.1f}") + (
        f"  {found.structure}" if found.structure else ""
    )


def _readout(one: OpenCase, view: View) -> None:
    """What lies under the crosshair, and how long the ruler is."""
    found = under(one, view.place, view.channel, view.finding)
    x, y, z = found.position_mm
    parts = [
        text("view.at", x=f"{x:.1f}", y=f"{y:.1f}", z=f"{z:.1f}", voxel=", ".join(map(str, found.voxel))),
        text("view.value", intensity=f"{found.intensity:g}", channel=plain(one.record.channels[view.channel])),
    ]
    parts += [plain(found.structure)] if found.structure else []
    parts += [text("view.entropy", value=f"{found.entropy_nats:.3f}")] if found.entropy_nats is not None else []
    st.markdown(" · ".join(parts))
    if view.ruler is not None:
        left, right = st.columns([3, 1])
        left.markdown(text("view.distance", mm=f"{distance_mm(one.affine, *view.ruler):.1f}"))
        right.button(text("view.clear"), on_click=session.clear_ruler, key="clear_ruler")


def _legend(heat: Heat) -> None:
    left, middle, right = st.columns([1, 6, 1], vertical_alignment="center")
    left.caption(f"{heat.low:.3f}")
    middle.image(heat_legend(), width="stretch")
    right.caption(f"{heat.high:.3f}")


def _window_text(name: str) -> str:
    return text(f"window.{name}")


def _map_text(name: str | None) -> str:
    return text("map.none" if name is None else f"map.{name}")
