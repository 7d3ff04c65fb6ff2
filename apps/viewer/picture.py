"""A picture of one plane that answers to click, wheel, arrow keys and a resting pointer.

Knows nothing of medicine. A few dozen lines of JavaScript around an image; what is shown as text is set as text, never
as HTML. Streamlit's own image can't tell where it was clicked.
"""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import streamlit as st
from PIL import Image

from medseg.review.slices import Picture

_ASSETS = Path(__file__).resolve().parent / "assets"


@st.cache_resource
def _mount():
    return st.components.v2.component(
        "medseg_picture",
        html='<figure><img alt="" draggable="false"><span></span><figcaption></figcaption></figure>',
        css=(_ASSETS / "picture.css").read_text(encoding="utf-8"),
        js=(_ASSETS / "picture.js").read_text(encoding="utf-8"),
    )


@st.cache_resource
def _style():
    css, js = ((_ASSETS / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return st.components.v2.component("medseg_page", html="<i hidden></i>", css=css, js=js, isolate_styles=False)


def make_room(session: str = "", ended: str = "") -> None:
    """Give the page narrower margins than Streamlit's; leave it for ``ended`` when ``session`` says that it is over."""
    _style()(key="medseg_page", data={"ask": session, "then": ended} if session else None)


def encode(picture: Picture, kind: str = "JPEG") -> bytes:
    """The picture as the bytes of a JPEG (colours at full resolution) or PNG file."""
    stream = io.BytesIO()
    more = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(picture).save(stream, kind, **more)
    return stream.getvalue()


def _nothing() -> None:
    """Of a picture that is only looked at."""


def show_picture(
    picture: Picture,
    key: str,
    title: str,
    readout: str,
    height: int,
    on_clicked: Callable[[], None] = _nothing,
    on_scrolled: Callable[[], None] = _nothing,
    on_rested: Callable[[], None] = _nothing,
) -> None:
    """Show it, ``height`` hundredths of the window high.

    ``st.session_state[key]`` holds ``clicked``, ``scrolled`` or ``rested`` while one of the callbacks runs.
    """
    source = "data:image/jpeg;base64," + base64.b64encode(encode(picture)).decode()
    _mount()(
        key=key,
        data={"source": source, "alt": title, "title": title, "readout": readout, "height": height},
        on_clicked_change=on_clicked,
        on_scrolled_change=on_scrolled,
        on_rested_change=on_rested,
    )
