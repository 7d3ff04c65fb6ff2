"""What tests in a browser share."""

from pathlib import Path

import pytest


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Where screenshots stay to be looked at; git ignores it."""
    folder = Path(request.config.rootpath) / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
