"""A Site: the hospital's end of every federated run, one function from a Request to a Reply.

Knows no engine: the simulation calls it in its own process, a Flower client app and Ray in theirs. Which module answers
which action is the table below, each imported only when asked for. Whatever happens, an answer leaves through
``medseg.federation.egress`` or not at all; the text of an error stays in the site's own folder.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medseg.errors import SiteError
from medseg.federation.egress import Answer, release, release_error
from medseg.federation.messages import Reply, Request
from medseg.federation.policy import SitePolicy

ACTIONS: dict[str, str] = {
    "check": "site_check",
}
"""Action -> the module of this room whose ``answer(site, request)`` does it."""
_LOG = "errors.log"


@dataclass(frozen=True)
class Site:
    """One hospital: where its data are, where its own results go, and what it allows."""

    name: str
    dataset: Path
    """Folder or file of its Dataset; only read."""
    folder: Path
    """Its own workspace: prepared arrays, what it keeps of the network, the text of errors. Nobody else reads it."""
    policy: SitePolicy = field(default_factory=SitePolicy)

    def answer(self, request: Request) -> Reply:
        """Do what is asked, as far as the policy allows; never raises, and tells of an error no more than a code."""
        try:
            return release(self.name, self.policy, request, self._do(request))
        except Exception as error:  # whatever it is, its text must not leave
            self._keep_text()
            return release_error(self.name, request, error)

    def _do(self, request: Request) -> Answer:
        if request.action not in ACTIONS:
            raise SiteError("unknown-action")
        if request.action not in self.policy.actions:
            raise SiteError("not-allowed")
        if request.round > self.policy.max_rounds:
            raise SiteError("too-many-rounds")
        module = importlib.import_module(f"medseg.federation.{ACTIONS[request.action]}")
        act: Callable[[Site, Request], Answer] = module.answer
        return act(self, request)

    def _keep_text(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOG).open("a", encoding="utf-8") as stream:
            stream.write(traceback.format_exc() + "\n")
