"""The interactive view: planes and a 3D view that the browser draws with WebGL, told by the same View as the slices.

Volumes leave by URL (``serving.py``) and never through the websocket; where the browser can't draw them, the slices are
shown instead and one sentence says why.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import session
import streamlit as st
from opened import refresh, source
from serving import DRAWING, LIBRARY
from texts import section, text
from user import user

from medseg.access.shelf import shelf
from medseg.arrays import Triple
from medseg.errors import MedsegError
from medseg.review.cache import OpenCase
from medseg.review.case import Finding
from medseg.review.corrections import Corrections
from medseg.review.drawing import can_draw, read_drawing
from medseg.review.overlays import HEAT, colors_by_index
from medseg.review.view import View

_ASSETS = Path(__file__).resolve().parent / "assets"
_KEY, _HEIGHT = "interactive", 640
_SEEN, _REASON, _ALL = "medseg_interactive_place", "medseg_interactive_reason", "medseg_interactive_all"
_REASONS = ("no_webgl", "software", "no_library")
"""Of the browser as a whole; anything else is said of one Case."""


@st.cache_resource
def _mount():
    parts = {kind: (_ASSETS / f"interactive.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    return st.components.v2.component("medseg_interactive", **parts)


def first_kind() -> str:
    """How a Case is shown before the reader has chosen: interactive where that is installed."""
    return "interactive" if LIBRARY.is_file() else "slices"


def interactive_view(one: OpenCase, view: View) -> str | None:
    """Draw the Case as ``view`` says. Returns None, or one sentence that says why the slices are shown instead."""
    if st.session_state.pop(_ALL, False):
        st.rerun()  # the whole page, of which this is a part
    if not LIBRARY.is_file():
        return text("interactive.no_library")
    reason = st.session_state.get(_REASON, {}).get(one.case.name) or st.session_state.get(_REASON, {}).get("")
    software = reason == "software" and st.toggle(text("interactive.anyway"), key="interactive_anyway")
    if reason and not software:
        return _why(reason)
    _mount()(
        key=_KEY,
        data=described(one, view) | {"software": software},
        on_place_change=lambda: _moved(one),
        on_window_change=lambda: None,
        on_unavailable_change=lambda: _refused(one),
        on_drawing_change=lambda: _drawn(one, view),
    )
    return None


def described(one: OpenCase, view: View) -> dict[str, Any]:
    """What the browser is told; everything large is a URL."""
    return {
        "library": f"/{LIBRARY.name}",
        "image": {"url": _url(one.viewer_image(view.channel))},
        "layers": _layers(one, view),
        "window": [view.window.low, view.window.high],
        "outline": view.outline,
        "cross": view.cross,
        "zoom": view.zoom,
        "place": _place(one, view),
        "orientation_known": one.record.orientation_known,
        "heat": _heat_colors(),
        "pen": _pen(one, view),
        "unit": "",
        "height": _HEIGHT,
        "texts": section("canvas"),
    }


def _layers(one: OpenCase, view: View) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if view.finding is not None:
        found.append(
            {
                "kind": "labels",
                "name": view.finding.name,
                "url": _url(one.viewer_labels(view.finding)),
                "opacity": view.opacity,
                "colors": _colors(view.finding, view),
            }
        )
    if view.heat is not None:
        found.append(
            {
                "kind": "heat",
                "name": view.heat.name,
                "url": _url(one.viewer_map(view.heat.path)),
                "opacity": view.heat.opacity,
                "range": [view.heat.low, view.heat.high],
            }
        )
    return found


def _colors(finding: Finding, view: View) -> list[dict[str, Any]]:
    """Of every label index but the background's: name, colour, and whether it is drawn."""
    palette, drawn = colors_by_index(finding.table, view.shown, view.colors)
    names = {label.value: label.name for label in finding.table.labels}
    values = finding.table.known_values
    return [
        {"value": index, "name": names[values[index]], "rgb": palette[index].tolist(), "shown": bool(drawn[index])}
        for index in range(1, len(palette))
    ]


def _heat_colors() -> Mapping[str, list[int]]:
    """The slices' colours of heat, and their cover, which grows with the value."""
    shares = np.linspace(0, 1, len(HEAT))
    red, green, blue = (HEAT[:, channel].astype(int).tolist() for channel in range(3))
    cover = np.minimum(2 * shares, 1) * 255
    return {"R": red, "G": green, "B": blue, "A": cover.astype(int).tolist(), "I": (shares * 255).astype(int).tolist()}


def _place(one: OpenCase, view: View) -> dict[str, Any] | None:
    """Where Python wants the crosshair; None where the browser has moved it there itself."""
    if st.session_state.get(_SEEN) == view.place:
        return None
    mm = (one.affine @ (*view.place, 1))[:3]
    return {"mm": mm.tolist(), "serial": "/".join(map(str, (one.case.name, *view.place)))}


def _moved(one: OpenCase) -> None:
    """The crosshair was moved in the browser."""
    place = _state().get("place")
    if place:
        voxel = voxel_at(one, place["mm"])
        st.session_state[_SEEN] = voxel
        session.go_to(voxel)


def _pen(one: OpenCase, view: View) -> dict[str, Any] | None:
    """What can be drawn with: the finding's structures, where the browser has every voxel."""
    finding = view.finding
    if finding is None or not can_draw(one, finding):
        return None
    return {"url": _url(one.viewer_labels(finding)), "colors": _colors(finding, view), "send": DRAWING}


def _drawn(one: OpenCase, view: View) -> None:
    """A drawing has arrived: it becomes a correction, or the page says why not."""
    packed = shelf().take(user(), str(_state().get("drawing")))
    if packed is None or view.finding is None:
        return
    st.session_state[_ALL] = True
    try:
        labels = read_drawing(packed, one, view.finding)
        corrections = Corrections(source().corrections / one.case.name, one)
        corrections.add(labels, view.finding, text("interactive.drawn"), session.reviewer())
    except (MedsegError, OSError) as error:
        st.session_state["medseg_told"] = str(error)
        return
    refresh()
    st.session_state.pop(f"finding_{one.case.name}", None)


def _refused(one: OpenCase) -> None:
    """The browser can't draw: this Case, or anything at all."""
    reason = _state().get("unavailable")
    if reason:
        case = "" if reason in _REASONS else one.case.name
        st.session_state[_REASON] = {**st.session_state.get(_REASON, {}), case: reason}


def voxel_at(one: OpenCase, mm: list[float]) -> Triple:
    """The voxel (z, y, x) of the page under a point in millimetres, or the nearest one."""
    at = np.linalg.solve(one.affine, [*(float(value) for value in mm[:3]), 1])[:3]
    z, y, x = (int(np.clip(round(value), 0, extent - 1)) for value, extent in zip(at, one.shape, strict=True))
    return z, y, x


def _state() -> Mapping[str, Any]:
    return st.session_state.get(_KEY) or {}


def _why(reason: str) -> str:
    if reason in _REASONS:
        return text(f"interactive.{reason}")
    return text("interactive.failed_because", why=reason)


def _url(path: Path) -> str:
    return f"/volume/{shelf().offer(path)}/volume.nii.gz"
