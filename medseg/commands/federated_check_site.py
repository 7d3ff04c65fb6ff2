"""``medseg federated check-site``: whether a hospital's data fit to take part, before anything is sent.

Shows two things apart: every finding for the hospital's own eyes, and the few codes and counts that would leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.commands.console import say, table
from medseg.errors import SettingsError
from medseg.paths import RUNS
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.federation.site import Site


class CheckSiteSettings(Settings):
    """Settings of ``medseg federated check-site``."""

    site: Path | None = None
    """The site.toml, whose dataset, folder and rules then hold."""
    dataset: Path | None = None
    """Folder or file of the site's dataset, where there is no site.toml yet."""
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
    from medseg.cases.listing import read_label_table
    from medseg.federation.messages import JSON, Request
    from medseg.federation.site_check import read_report

    site = _site(settings)
    agreed: dict[str, JSON] = {}
    if settings.labels is not None:
        labels = read_label_table(settings.labels)
        agreed |= {"labels": list(labels.names), "targets": list(labels.target_names)}
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
    fewer = f"that there are some (a number below {site.policy.min_count} is not told)"
    rows += [[code, fewer if count is None else str(count)] for code, count in codes.items()]
    table("All that leaves the site", ["what", "told"], rows)
    say(f"Every finding, for this site's eyes: {site.folder / 'check.json'}")
    return 0 if reply.header["passes"] else 2


def _site(settings: CheckSiteSettings) -> Site:
    from medseg.federation.site import Site
    from medseg.federation.site_file import SiteFile

    if (settings.site is None) == (settings.dataset is None):
        raise SettingsError("Write site=site.toml, or dataset=DIR where there is no site.toml yet.")
    if settings.site is not None:
        if settings.workspace is not None:
            raise SettingsError("site= says where findings are kept. Leave workspace= out.")
        return SiteFile.load(settings.site).site()
    assert settings.dataset is not None
    return Site(settings.name, settings.dataset, settings.workspace or RUNS / settings.name)
