"""How users prove who they are: what every way tells the gate, and the way by password.

Knows nothing of sessions or of what lies behind the gate. The other way is ``openid.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from medseg.access.asgi import Headers, Receive, Request, read_form
from medseg.access.page import password_form
from medseg.access.passwords import PasswordFile
from medseg.access.throttle import Throttle

SIGN_IN = "/sign-in"


@dataclass(frozen=True)
class Attempt:
    """What came of an attempt to sign in."""

    user: str = ""
    accepted: bool = False
    location: str = ""
    """Where the browser goes next; empty for a page that says what is wrong, or that goes on by itself."""
    status: int = 401
    message: str = ""
    """What is wrong, for the page."""
    event: str = ""
    """For the audit log; empty where nothing happened yet."""
    details: Mapping[str, str | int] = field(default_factory=dict)
    headers: Headers = field(default_factory=list)


class Way(Protocol):
    """One way to sign in."""

    @property
    def paths(self) -> frozenset[str]:
        """Where it is tried."""
        ...

    def form(self, texts: Mapping[str, str]) -> str:
        """What stands on the sign-in page, as HTML in which every text is escaped."""
        ...

    async def attempt(self, request: Request, receive: Receive) -> Attempt | None:
        """Try; None where the request only asks for the page."""
        ...


class Passwords:
    """A file of users and what their passwords hash to."""

    paths = frozenset((SIGN_IN,))

    def __init__(self, passwords: Callable[[], PasswordFile], throttle: Throttle, texts: Mapping[str, str]) -> None:
        self._passwords = passwords  # read at every attempt, so that a new user needs no restart
        self._throttle, self._texts = throttle, texts
        self._hashing = asyncio.Semaphore(2)  # each takes 32 MiB

    def form(self, texts: Mapping[str, str]) -> str:
        """Two fields and a button."""
        return password_form(texts)

    async def attempt(self, request: Request, receive: Receive) -> Attempt | None:
        """Compare; who was wrong too often waits."""
        if not request.changes:
            return None
        form = await read_form(receive)
        user, password = form.get("user", "")[:64], form.get("password", "")[:1024]
        keys = (("user", user), ("address", request.address))
        wait = self._throttle.wait(*keys)
        if wait > 0:
            message = self._texts["wait"].format(seconds=round(wait) + 1)
            later: Headers = [(b"retry-after", b"%d" % (wait + 1))]
            details = {"seconds": round(wait)}
            return Attempt(user, False, "", 429, message, "sign-in held back", details, later)
        self._throttle.failed(*keys)  # before the slow part, so that attempts side by side count too
        async with self._hashing:
            matches = await asyncio.to_thread(self._passwords().accepts, user, password)
        if not matches:
            return Attempt(user, message=self._texts["refused"], event="sign-in refused")
        self._throttle.succeeded(*keys)
        return Attempt(user, True, "/", event="signed in")
