"""``medseg federated check-site``: whether a hospital's data fit to take part, before anything is sent.

Shows two things apart: every finding for the hospital's own eyes, and the few codes and counts that would leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medseg.cases.labels import LabelTable
from medseg.commands.console import say, table
from medseg.paths import RUNS
from medseg.settings import Settings, build


class CheckSiteSettings(Settings):
    """Settings of ``medseg federated check-site``."""

    dataset: Path
    """Folder or file of the site's dataset."""
    name: str = "site"
    """The site's name, in small letters without spaces."""
    workspace: Path | None = None
    """The site's own folder, where every finding is kept; by default runs/<name>."""
    labels: Path | None = None
    """A labels.yaml that the sites have agreed on; the data's labels have to be the same in the same order."""
    channels: tuple[str, ...] = ()
    """Names of the channels that the sites have agreed on, in order."""


SETTINGS = (CheckSiteSettings,)


def run(words: Mapping[str, str]) -> int:
    """Check and report; 2 where the site can't take part."""
    settings = build(CheckSiteSettings, words)
    from medseg.federation.messages import JSON, Request
    from medseg.federation.site import Site
    from medseg.federation.site_check import read_report

    site = Site(settings.name, settings.dataset, settings.workspace or RUNS / settings.name)
    agreed: dict[str, JSON] = {}
    if settings.labels is not None:
        agreed["labels"] = list(LabelTable.load(settings.labels).names)
    if settings.channels:
        agreed["channels"] = list(settings.channels)
    reply = site.answer(Request("check", "check-site", 0, "", agreed))
    if reply.error is not None:
        say(f"The check failed with '{reply.error}'. What happened stands in {site.folder / 'errors.log'}.")
        return 2
    for complaint in read_report(site).complaints:
        say(f"  {complaint.severity}: {complaint}")
    codes = reply.header["codes"]
    assert isinstance(codes, dict)
    rows = [["passes", "yes" if reply.header["passes"] else "no"], ["cases", str(reply.header["cases"])]]
    fewer = f"fewer than {site.policy.min_count}"
    rows += [[code, fewer if count is None else str(count)] for code, count in codes.items()]
    table("All that leaves the site", ["what", "told"], rows)
    say(f"Every finding, for this site's eyes: {site.folder / 'check.json'}")
    return 0 if reply.header["passes"] else 2
