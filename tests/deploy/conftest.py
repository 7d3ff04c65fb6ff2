"""What tests in a browser share."""

from pathlib import Path

import pytest

from tiny_browser import CHROMIUM, FLAGS


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Where screenshots stay to be looked at; git ignores it."""
    folder = Path(request.config.rootpath) / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser():
    """One chromium for the tests of a module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()
