"""A Site: the hospital's end of every federated run, one function from a Request to a Reply.

Knows no engine: the simulation calls it in its own process, a Flower client app and Ray in theirs. Which module answers
which action is the table below, each imported only when asked for. Whatever happens, an answer leaves through
``medseg.federation.egress`` or not at all; the text of an error stays in the site's own folder.
"""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from medseg.errors import SiteError
from medseg.federation.egress import Answer, release, release_error
from medseg.federation.messages import Reply, Request
from medseg.federation.policy import SitePolicy
from medseg.planning.plan import Machine

ACTIONS: dict[str, str] = {
    "check": "site_check",
    "fingerprint": "site_fingerprint",
    "prepare": "site_prepare",
    "train": "site_train",
    "evaluate": "site_evaluate",
}
"""Action -> the module of this room whose ``answer(site, request)`` does it."""
_REPEATED = {"train", "fingerprint"}
"""Actions whose answer is kept: asked again in the same round for the same weights, the site sends it again."""
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
    device: str = "auto"
    """Where it computes: auto, cpu, cuda, mps."""
    machine: Machine | None = None
    """What it declares to have, so that the common plan fits; nothing is declared by default."""
    mirrors: bool = False
    """Whether predictions are averaged over mirror images, which takes up to 8 times as long."""

    def answer(self, request: Request) -> Reply:
        """Do what is asked, as far as the policy allows; never raises, and tells of an error no more than a code."""
        try:
            module = self._module(request)
            earlier: Reply | None = module.cached(self, request) if request.action in _REPEATED else None
            if earlier is not None:
                return earlier
            answer: Answer = module.answer(self, request)
            reply = release(self.name, self.policy, request, answer)
            if request.action in _REPEATED:
                module.keep(self, request, reply)
            return reply
        except Exception as error:  # whatever it is, its text must not leave
            self._keep_text(request)
            return release_error(self.name, request, error)

    def _module(self, request: Request) -> ModuleType:
        if request.action not in ACTIONS:
            raise SiteError("unknown-action")
        if request.action not in self.policy.actions:
            raise SiteError("not-allowed")
        if request.round > self.policy.max_rounds:
            raise SiteError("too-many-rounds")
        return importlib.import_module(f"medseg.federation.{ACTIONS[request.action]}")

    def _keep_text(self, request: Request) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOG).open("a", encoding="utf-8") as stream:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            stream.write(f"{now} {request.action!r} in round {request.round} of the run {request.run!r}\n")
            stream.write(traceback.format_exc() + "\n")
