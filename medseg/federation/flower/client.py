"""A site's end in Flower: the app that hands a message to the Site, and the guard that lets only approved apps run.

Flower starts ``flwr-clientapp`` anew for every message; at a site that name leads to ``run_guarded``. It checks the
SHA-256 of the app that came before anything of it is unpacked, and it replaces what Flower would tell of an exception
(its whole text) by a code. Without the guard the app answers nothing. A coordinator can also ask a SuperNode to start
Flower's other programs, some of which run what an app brings; at a site their names lead to ``refuse``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message
from flwr.cli.config_utils import get_fab_metadata
from flwr.clientapp import ClientApp
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND, TaskType
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp as _flower_runs

from medseg.errors import SiteError
from medseg.federation.audited import answer_audited, note_refusal
from medseg.federation.egress import code_of
from medseg.federation.flower.letters import enclose, make_error, unfold
from medseg.federation.messages import Request
from medseg.federation.processes import end_with_parent
from medseg.federation.site_file import SiteFile

_flower: Any = _flower_runs
_REPLACED = ("pull_task_input", "install_from_fab", "Error")
"""What the guard replaces in Flower's own module."""


REFUSED = tuple(command for kind, command in TASK_TYPE_TO_COMMAND.items() if kind != TaskType.CLIENT_APP)
"""Programs that a SuperNode would start where the coordinator says so, and that have no business at a site."""


class Guard:
    """What stands between an app that arrives and this site; one for each process."""

    current: Guard | None = None

    def __init__(self, site_file: Path) -> None:
        self.site_file = SiteFile.load(site_file)
        self.app = ""
        """SHA-256 of the app that runs."""
        self._told = ("", "", "")
        self._code = "failed"
        self._pull, self._install = _flower.pull_task_input, _flower.install_from_fab

    def pull(self, client: Any) -> Any:
        """Flower's own, with a note of what the coordinator says of the app."""
        message, context, run, fab = self._pull(client)
        self._told = (run.fab_id, run.fab_version, fab.hash_str)
        return message, context, run, fab

    def install(self, content: bytes, **settings: Any) -> Any:
        """Unpack an approved app. Raises SiteError for every other, before anything of it is read."""
        found = hashlib.sha256(content).hexdigest()
        try:
            if found not in self.site_file.apps:
                raise SiteError("app-not-approved")
            if (*get_fab_metadata(content), found) != self._told:
                raise SiteError("app-under-another-name")
        except SiteError as error:
            self._code = str(error)
            note_refusal(self.site_file, self._code, app=found)
            raise
        self.app = found
        return self._install(content, **settings)

    def error(self, code: int, reason: str | None = None) -> Error:  # noqa: ARG002 (Flower passes an exception's text)
        """What leaves of an exception: a code."""
        return make_error(self._code)


def run_guarded(site_file: Path) -> None:
    """Do what ``flwr-clientapp`` does, for approved apps only. Raises SiteError where this Flower can't be guarded."""
    if any(not hasattr(_flower, name) for name in _REPLACED):
        raise SiteError("flower-cannot-be-guarded")
    end_with_parent()
    guard = Guard.current = Guard(site_file)
    _flower.pull_task_input = guard.pull
    _flower.install_from_fab = guard.install
    _flower.Error = guard.error
    flwr_clientapp()


def refuse(site_file: Path, program: str) -> int:
    """Log that a program was asked for; the exit code of one that did nothing."""
    note_refusal(SiteFile.load(site_file), "program-not-allowed", program=program)
    return 1


def client_app() -> ClientApp:
    """The app that travels: every message is a Request, every answer a Reply or a code."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, _: Context) -> Message:
        try:
            guard = Guard.current
            if guard is None:
                raise SiteError("not-guarded")
            request = Request.from_bytes(unfold(message.content))
            reply = answer_audited(guard.site_file, request, app=guard.app)
            return Message(enclose(reply.to_bytes()), reply_to=message)
        except Exception as error:  # whatever it is, its text must not leave
            return Message(make_error(code_of(error)), reply_to=message)

    return app
