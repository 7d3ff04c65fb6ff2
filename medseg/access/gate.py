"""One ASGI layer in front of everything the viewer's server answers: pages, pictures, volumes, uploads, websocket.

Knows nothing of Streamlit or of what lies behind it. Whoever is not signed in gets the sign-in page (a page was asked
for), 401 (anything else) or no websocket at all; whoever is, is named to what lies behind in a header that nobody
outside can set. Requests that change something must come from a page of this server (OWASP's check of the origin), and
how users prove who they are is the business of ``ways.py`` and ``openid.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from medseg.access.asgi import (
    App,
    Message,
    Receive,
    Request,
    Scope,
    Send,
    answer,
    answer_page,
    cookie,
    is_loopback,
    with_safe_headers,
)
from medseg.access.page import go_on_page, sign_in_page
from medseg.access.sessions import Sessions
from medseg.access.ways import SIGN_IN, Attempt, Way
from medseg.chained_log import ChainedLog

USER_HEADER = b"x-medseg-user"
"""Who is signed in, percent-encoded."""
NOBODY = "local"
"""The user's name where no passwords are asked for."""
SIGN_OUT, SESSION = "/sign-out", "/session"
ENDED = f"{SIGN_IN}?ended=1"
"""Where a page goes whose session has ended."""
_COOKIE = "medseg_session"


@dataclass
class Keeper:
    """What the gate needs where users must sign in."""

    way: Way
    """How they prove who they are."""
    sessions: Sessions
    texts: Mapping[str, str]
    """Of the sign-in page."""


class Gate:
    """The layer; without a ``keeper`` everybody who reaches the server may look."""

    def __init__(
        self,
        app: App,
        keeper: Keeper | None,
        audit: ChainedLog,
        names: frozenset[str] = frozenset(),
        encrypted: bool = False,
    ) -> None:
        self._app, self._keeper, self._audit = app, keeper, audit
        self._names, self._encrypted = names, encrypted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if scope["type"] == "websocket":
            await self._websocket(request, receive, send)
            return
        send = with_safe_headers(send, request.path, self._encrypted)
        if not self._may_answer(request):
            await answer(send, 403, b"This server does not answer to that name, or needs passwords to answer here.")
        elif request.changes and not request.is_same_origin:
            await answer(send, 403, b"This request came from another site.")
        elif self._keeper is None:
            await self._app(_named(scope, NOBODY), receive, send)
        elif request.path in (SIGN_OUT, SESSION, *self._keeper.way.paths):
            await self._own_page(self._keeper, request, receive, send)
        elif user := self._keeper.sessions.user(request.cookie(_COOKIE)):
            await self._app(_named(scope, user), receive, send)
        elif request.wants_page:
            await answer(send, 303, b"", [(b"location", SIGN_IN.encode())])
        else:
            await answer(send, 401, b"Sign in first.")

    async def _websocket(self, request: Request, receive: Receive, send: Send) -> None:
        keeper = self._keeper
        user = NOBODY if keeper is None else keeper.sessions.user(request.cookie(_COOKIE))
        if user is None or not request.is_same_origin or not self._may_answer(request):
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})
            return
        if keeper is None:
            await self._app(_named(request.scope, user), receive, send)
            return
        line = _Line(keeper.sessions, request.cookie(_COOKIE), receive, send)
        await self._app(_named(request.scope, user), line.receive, line.send)

    def _may_answer(self, request: Request) -> bool:
        """Without passwords only this machine's own addresses; and only names that the server was given.

        The second keeps another site's name from being pointed here (DNS rebinding).
        """
        if self._keeper is None and not is_loopback(request.own_address):
            return False
        return not self._names or request.asked_name in self._names

    async def _own_page(self, keeper: Keeper, request: Request, receive: Receive, send: Send) -> None:
        user = keeper.sessions.user(request.cookie(_COOKIE), use=False)
        if request.path == SESSION:  # asked by pages that stay open, so it does not count as use
            await answer(send, 200 if user else 401, b"")
        elif request.path == SIGN_OUT and request.changes:
            keeper.sessions.end(request.cookie(_COOKIE))
            self._audit.append("signed out", user=user or "")
            await answer(send, 303, b"", [(b"location", SIGN_IN.encode()), self._cookie("", 0)])
        elif request.path != SIGN_OUT and (attempt := await keeper.way.attempt(request, receive)) is not None:
            await self._conclude(keeper, request, attempt, send)
        else:
            message = keeper.texts["ended"] if "ended" in request.query else ""
            await answer_page(send, 200, sign_in_page(keeper.texts, keeper.way.form(keeper.texts), user, message))

    async def _conclude(self, keeper: Keeper, request: Request, attempt: Attempt, send: Send) -> None:
        """Say what came of an attempt to sign in, in the log and to the browser; each sign-in is a new session."""
        if attempt.event:
            self._audit.append(attempt.event, user=attempt.user, address=request.address, **attempt.details)
        headers = list(attempt.headers)
        if attempt.accepted:
            keeper.sessions.end(request.cookie(_COOKIE))
            headers.append(self._cookie(keeper.sessions.begin(attempt.user), None))
        if attempt.location:
            await answer(send, 303, b"", [(b"location", attempt.location.encode()), *headers])
        elif attempt.accepted:
            await answer_page(send, 200, go_on_page(keeper.texts), headers)
        else:
            page = sign_in_page(keeper.texts, keeper.way.form(keeper.texts), None, attempt.message)
            await answer_page(send, attempt.status, page, headers)

    def _cookie(self, token: str, age: int | None) -> tuple[bytes, bytes]:
        return cookie(_COOKIE, token, "/", "Strict", self._encrypted, age)


def _named(scope: Scope, user: str) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != USER_HEADER]
    return {**scope, "headers": [*headers, (USER_HEADER, quote(user).encode())]}


class _Line:
    """A websocket until its session ends; each message from the browser counts as use, and the end closes it."""

    def __init__(self, sessions: Sessions, token: str, receive: Receive, send: Send) -> None:
        self._sessions, self._token, self._receive, self._send = sessions, token, receive, send
        self._pending: asyncio.Task[Message] | None = None
        self._closed = False

    async def receive(self) -> Message:
        while True:
            self._pending = self._pending or asyncio.ensure_future(self._receive())
            done, _ = await asyncio.wait({self._pending}, timeout=self._sessions.remaining(self._token))
            if self._sessions.user(self._token, use=bool(done)) is None:
                self._pending.cancel()
                await self._send({"type": "websocket.close", "code": 1008})
                self._closed = True
                return {"type": "websocket.disconnect", "code": 1008}
            if done:
                message, self._pending = self._pending.result(), None
                return message

    async def send(self, message: Message) -> None:
        if not self._closed:  # what lies behind may still be talking
            await self._send(message)
