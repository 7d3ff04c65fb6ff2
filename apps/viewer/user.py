"""Who looks at the page, as the gate has told."""

from urllib.parse import unquote

import streamlit as st

from medseg.access.gate import NOBODY, USER_HEADER


def user() -> str:
    """Who is signed in; "local" where nobody must."""
    return unquote(st.context.headers.get(USER_HEADER.decode(), NOBODY))
