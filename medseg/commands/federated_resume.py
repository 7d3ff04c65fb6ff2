"""``medseg federated resume``: a run that paused, or whose coordinator was stopped, goes on from its last whole round.

One that is still under way is waited for. It ends with the same weights as if nothing had happened:
``medseg federated resume folder=DIR name=run-1``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from medseg.commands.console import say
from medseg.errors import SettingsError
from medseg.federation.offline import require_flower
from medseg.settings import Settings, build


class ResumeSettings(Settings):
    """Settings of ``medseg federated resume``."""

    folder: Path
    """The federation's folder."""
    name: str = Field(default="run-1", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    """The run's name."""


SETTINGS = (ResumeSettings,)


def run(words: Mapping[str, str]) -> int:
    """Start the run again, unless it is under way or complete, and wait for its verdict."""
    settings = build(ResumeSettings, words)
    require_flower()
    from medseg.commands.federated_follow import follow, show_run, tell_missing
    from medseg.federation.conduct import RunOrder, RunResult, order_file, result_file
    from medseg.federation.federation_file import Place

    place = Place(settings.folder)
    federation = place.open()
    folder = place.run(settings.name)
    if not order_file(folder).is_file():
        raise SettingsError(
            f"There is no run '{settings.name}' in {place.folder}. 'medseg federated status' lists them."
        )
    result = result_file(folder)
    if result.is_file() and (ended := RunResult.load(result)).status in ("completed", "completed-with-gaps"):
        say(f"The run '{settings.name}' is {ended.status} already.")
        show_run(folder, ended)
        return 0
    tell_missing(place, federation, RunOrder.load(order_file(folder)))
    return follow(place, federation, settings.name)
