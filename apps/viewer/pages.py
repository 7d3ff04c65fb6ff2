"""The pages and how to get from one to the other."""

import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parent
sys.path[:0] = [] if str(ROOM) in sys.path else [str(ROOM)]

import streamlit as st  # noqa: E402
from picture import make_room  # noqa: E402
from texts import plain, text  # noqa: E402
from user import user  # noqa: E402

from medseg.access.gate import ENDED, NOBODY, SESSION, SIGN_OUT  # noqa: E402

st.set_page_config(page_title="medseg", page_icon=str(ROOM / "assets/icon.png"), layout="wide")
if user() != NOBODY:
    st.sidebar.link_button(text("sign_in.sign_out"), SIGN_OUT, icon=":material/logout:", help=plain(user()))
page = st.navigation(
    [
        st.Page(ROOM / "reading.py", title=text("page.reading"), icon=":material/visibility:", default=True),
        st.Page(ROOM / "running.py", title=text("page.running"), icon=":material/play_circle:"),
        st.Page(ROOM / "records.py", title=text("page.records"), icon=":material/fact_check:"),
        st.Page(ROOM / "guide.py", title=text("page.guide"), icon=":material/help:"),
    ],
    position="top",
)
make_room(*((SESSION, ENDED) if user() != NOBODY else ()))
page.run()
