"""When a wheel is built (or medseg installed from a clone): fetch NiiVue into the assets and carry it along.

Hatchling runs this; the version and its hash are those of ``medseg/review/niivue.py``. Without a way to npm the build
goes on and says so: the viewer then shows slices only.
"""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NiivueHook(BuildHookInterface):
    """Named in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 (the base class names it)
        """Called by Hatchling before the files of a wheel are collected."""
        sys.path.insert(0, self.root)
        from medseg.errors import MedsegError
        from medseg.review.niivue import FILE, fetch

        try:
            fetch(Path(self.root) / "apps/viewer/assets")
        except MedsegError as error:
            self.app.display_warning(str(error))
        else:
            # Git ignores the file, and so would Hatchling.
            build_data["artifacts"].append(f"/apps/viewer/assets/{FILE}")
