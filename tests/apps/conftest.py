"""The pages as Streamlit runs them, without a browser."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """Opens a page of the viewer with words such as ``input=DIR``."""
    testing = pytest.importorskip("streamlit.testing.v1")
    import streamlit

    logging.getLogger("streamlit").setLevel(logging.ERROR)

    def opened(*words: object, name: str = "viewer/pages.py"):
        monkeypatch.setattr(sys, "argv", ["viewer.py", *(str(word) for word in words)])
        app = testing.AppTest.from_file(str(ROOT / "apps" / name), default_timeout=120)
        app.session_state["kind"] = "slices"  # whether or not NiiVue has been fetched
        return app.run()

    yield opened
    streamlit.cache_resource.clear()
    room = str(ROOT / "apps" / "viewer")
    sys.path[:] = [place for place in sys.path if place != room]
