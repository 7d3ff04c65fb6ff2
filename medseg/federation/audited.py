"""A site's answer with the log around it: what was asked is on the disk before work begins, what left after it.

Knows nothing of how the message came. What a site has given in all runs so far is read from its own log, and ends where
its policy says. The coordinator can't override that: the site checks, in its own process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.chained_log import ChainedLog
from medseg.errors import MedsegError, SiteError
from medseg.federation.egress import release_error
from medseg.federation.messages import Reply, Request, hash_arrays
from medseg.federation.policy import SitePolicy
from medseg.federation.privacy.ledger import LEDGER, Ledger
from medseg.federation.site_file import SiteFile
from medseg.files import locked

ASKED, ANSWERED, REFUSED = "asked", "answered", "refused"


@dataclass(frozen=True)
class Used:
    """What a site has given so far, in all runs."""

    bytes: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, entries: Iterable[Mapping[str, Any]]) -> Used:
        """Sum up an audit log."""
        answered = [entry for entry in entries if entry.get("what") == ANSWERED]
        return cls(sum(entry["bytes"] for entry in answered), sum(entry["seconds"] for entry in answered))


def answer_audited(site_file: SiteFile, request: Request, **facts: Any) -> Reply:
    """The site's Reply; raises SiteError only where its log can't be written, and then nothing was done."""
    log, site = site_file.audit(), site_file.site()
    before = spent_epsilon(site.folder)
    asked = {"action": request.action, "run": request.run, "round": request.round, "plan": request.plan_sha256}
    _note(log, ASKED, **facts, **asked, arrays=hash_arrays(request.arrays) if request.arrays else "")
    # One message after the other: a question that came twice finds the answer that its first coming left.
    with locked(site.folder / ".lock"):
        started = time.monotonic()
        try:
            require_within(site_file.policy, Used.of(log.read()))
            reply = site.answer(request)
        except SiteError as error:
            reply = release_error(site.name, request, error)
    data = reply.to_bytes()
    _note(
        log,
        ANSWERED,
        **asked,
        error=reply.error or "",
        fields=sorted(reply.header),
        arrays=hash_arrays(reply.arrays) if reply.arrays else "",
        sha256_of_all=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        epsilon_before=before,
        epsilon_after=spent_epsilon(site.folder),
        seconds=round(time.monotonic() - started, 3),
    )
    return reply


def spent_epsilon(folder: Path) -> float | None:
    """What has been spent on the site's patients in all runs; None where nothing was, or the ledger was changed."""
    if not (folder / LEDGER).exists():
        return None
    try:
        entries = Ledger(folder / LEDGER).entries()
    except SiteError:
        return None
    return entries[-1].epsilon if entries else None


def require_within(policy: SitePolicy, used: Used) -> None:
    """Raise SiteError where the site has given what it wanted to give."""
    if used.bytes >= policy.max_gigabytes * 1e9:
        raise SiteError("bytes-used-up")
    if used.seconds >= policy.max_hours * 3600:
        raise SiteError("hours-used-up")


def note_refusal(site_file: SiteFile, code: str, **facts: Any) -> None:
    """Log that something was refused before it became a Request."""
    _note(site_file.audit(), REFUSED, error=code, **facts)


def _note(log: ChainedLog, what: str, **facts: Any) -> None:
    """Add an entry; what is wrong with the log leaves the site as a code, without its path."""
    try:
        log.append(what, **facts)
    except MedsegError as error:
        raise SiteError("audit-log-damaged") from error
