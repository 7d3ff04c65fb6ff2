"""``medseg federated join``: a hospital takes part in a federation until it is stopped.

``medseg federated join site=site.toml``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medseg.commands.console import say
from medseg.errors import MedsegError
from medseg.federation.offline import require_flower
from medseg.settings import Settings, build


class JoinSettings(Settings):
    """Settings of ``medseg federated join``."""

    site: Path
    """The hospital's site.toml."""


SETTINGS = (JoinSettings,)


def run(words: Mapping[str, str]) -> int:
    """Take part until a signal arrives; 0 then."""
    settings = build(JoinSettings, words)
    require_flower()
    from medseg.federation.processes import ended_by_signals, last_lines
    from medseg.federation.site_file import SiteFile
    from medseg.federation.supernode import log_of, require_coordinator, supernode_running

    site_file = SiteFile.load(settings.site)
    if not site_file.dataset.exists():
        raise MedsegError(f"There is no dataset {site_file.dataset}. 'dataset' in {settings.site} says where it lies.")
    verdict = site_file.audit().verify()
    if verdict.complaint is not None and "cut off" not in verdict.complaint:
        raise MedsegError(f"{verdict.complaint} Nothing is answered until somebody has looked into it.")
    require_coordinator(site_file)
    try:
        with ended_by_signals(), supernode_running(settings.site, site_file) as process:
            say(f"Site {site_file.name} takes part at {site_file.coordinator}; Ctrl-C stops.")
            process.wait()
    except KeyboardInterrupt:
        say("Stopped.")
        return 0
    log = log_of(site_file)
    raise MedsegError(
        "The SuperNode has ended. If the coordinator does not know this site's key, send it node.pub. "
        f"{log} ends with:\n  {last_lines(log)}"
    )
