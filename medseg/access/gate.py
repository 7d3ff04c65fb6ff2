"""One ASGI layer in front of everything the viewer's server answers: pages, pictures, volumes, uploads, websocket.

Knows nothing of Streamlit or of what lies behind it. Whoever is not signed in gets the sign-in page (a page was asked
for), 401 (anything else) or no websocket at all; whoever is, is named to what lies behind in a header that nobody
outside can set. Requests that change something must come from a page of this server (OWASP's check of the origin), and
answers carry the headers that keep a browser from running or sending what it should not.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from medseg.access.audit import AuditLog
from medseg.access.page import sign_in_page
from medseg.access.passwords import PasswordFile
from medseg.access.sessions import Sessions
from medseg.access.throttle import Throttle

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_Headers = list[tuple[bytes, bytes]]

USER_HEADER = b"x-medseg-user"
"""Who is signed in, percent-encoded."""
NOBODY = "local"
"""The user's name where no passwords are asked for."""
SIGN_IN, SIGN_OUT, SESSION = "/sign-in", "/sign-out", "/session"
_COOKIE = "medseg_session"
_LARGEST_FORM = 4096
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:",  # Streamlit's components are blobs
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' blob:",
        "connect-src 'self' blob: data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_SAFE_HEADERS: _Headers = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer browsers call the origin of a form null
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=()"),
]
_KEPT_BY_BROWSER = ("/static/", "/niivue.js")
"""Paths of programs, not patients; everything else is not to be stored."""


@dataclass
class Keeper:
    """What the gate needs where users must sign in."""

    passwords: Callable[[], PasswordFile]
    """Read at every attempt, so that a new user needs no restart."""
    sessions: Sessions
    throttle: Throttle
    texts: Mapping[str, str]
    """Of the sign-in page."""


class Gate:
    """The layer; without a ``keeper`` everybody who reaches the server may look."""

    def __init__(
        self,
        app: App,
        keeper: Keeper | None,
        audit: AuditLog,
        names: frozenset[str] = frozenset(),
        encrypted: bool = False,
    ) -> None:
        self._app, self._keeper, self._audit = app, keeper, audit
        self._names, self._encrypted = names, encrypted
        self._hashing = asyncio.Semaphore(2)  # each takes 32 MiB

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request = _Request(scope)
        if scope["type"] == "websocket":
            await self._websocket(request, receive, send)
            return
        send = _with_headers(send, request.path, self._encrypted)
        if not self._may_answer(request):
            await _answer(send, 403, b"This server does not answer to that name, or needs passwords to answer here.")
        elif request.changes and not request.is_same_origin:
            await _answer(send, 403, b"This request came from another site.")
        elif self._keeper is None:
            await self._app(_named(scope, NOBODY), receive, send)
        elif request.path in (SIGN_IN, SIGN_OUT, SESSION):
            await self._own_page(self._keeper, request, receive, send)
        elif user := self._keeper.sessions.user(request.token):
            await self._app(_named(scope, user), receive, send)
        elif request.wants_page:
            await _answer(send, 303, b"", [(b"location", SIGN_IN.encode())])
        else:
            await _answer(send, 401, b"Sign in first.")

    async def _websocket(self, request: _Request, receive: Receive, send: Send) -> None:
        keeper = self._keeper
        user = NOBODY if keeper is None else keeper.sessions.user(request.token)
        if user is None or not request.is_same_origin or not self._may_answer(request):
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})
            return
        if keeper is None:
            await self._app(_named(request.scope, user), receive, send)
            return
        line = _Line(keeper.sessions, request.token, receive, send)
        await self._app(_named(request.scope, user), line.receive, line.send)

    def _may_answer(self, request: _Request) -> bool:
        """Without passwords only this machine's own addresses; and only names that the server was given.

        The second keeps another site's name from being pointed here (DNS rebinding).
        """
        if self._keeper is None and not is_loopback(request.own_address):
            return False
        return not self._names or request.asked_name in self._names

    async def _own_page(self, keeper: Keeper, request: _Request, receive: Receive, send: Send) -> None:
        user = keeper.sessions.user(request.token, use=False)
        if request.path == SESSION:  # asked by pages that stay open, so it does not count as use
            await _answer(send, 200 if user else 401, b"")
        elif request.path == SIGN_OUT and request.changes:
            keeper.sessions.end(request.token)
            self._audit.record("signed out", user or "")
            await _answer(send, 303, b"", [(b"location", SIGN_IN.encode()), self._cookie("", 0)])
        elif request.path == SIGN_IN and request.changes:
            await self._sign_in(keeper, request, receive, send)
        else:
            await _page(send, 200, sign_in_page(keeper.texts, user))

    async def _sign_in(self, keeper: Keeper, request: _Request, receive: Receive, send: Send) -> None:
        form = await _form(receive)
        user, password = form.get("user", "")[:64], form.get("password", "")[:1024]
        keys = (("user", user), ("address", request.address))
        wait = keeper.throttle.wait(*keys)
        if wait > 0:
            self._audit.record("sign-in held back", user, address=request.address, seconds=round(wait))
            message = keeper.texts["wait"].format(seconds=round(wait) + 1)
            await _page(send, 429, sign_in_page(keeper.texts, None, message), [(b"retry-after", b"%d" % (wait + 1))])
            return
        keeper.throttle.failed(*keys)  # before the slow part, so that attempts side by side count too
        async with self._hashing:
            matches = await asyncio.to_thread(keeper.passwords().accepts, user, password)
        if not matches:
            self._audit.record("sign-in refused", user, address=request.address)
            await _page(send, 401, sign_in_page(keeper.texts, None, keeper.texts["refused"]))
            return
        keeper.throttle.succeeded(*keys)
        keeper.sessions.end(request.token)
        self._audit.record("signed in", user, address=request.address)
        await _answer(send, 303, b"", [(b"location", b"/"), self._cookie(keeper.sessions.begin(user), None)])

    def _cookie(self, token: str, age: int | None) -> tuple[bytes, bytes]:
        parts = [f"{_COOKIE}={token}", "Path=/", "HttpOnly", "SameSite=Strict"]
        parts += ["Secure"] if self._encrypted else []
        parts += [f"Max-Age={age}"] if age is not None else []
        return b"set-cookie", "; ".join(parts).encode()


class _Request:
    """What the gate looks at in a request."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self._headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1")

    @property
    def address(self) -> str:
        return (self.scope.get("client") or ("",))[0]

    @property
    def own_address(self) -> str:
        """The server's address that was connected to; a socket of the file system counts as this machine."""
        return (self.scope.get("server") or ("127.0.0.1",))[0]

    @property
    def asked_name(self) -> str:
        try:
            return urlsplit(f"//{self.header(b'host')}").hostname or ""
        except ValueError:
            return ""

    @property
    def token(self) -> str:
        try:
            morsel = SimpleCookie(self.header(b"cookie")).get(_COOKIE)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    @property
    def changes(self) -> bool:
        return self.scope.get("method") not in ("GET", "HEAD", "OPTIONS")

    @property
    def wants_page(self) -> bool:
        return self.scope["method"] == "GET" and "text/html" in self.header(b"accept")

    @property
    def is_same_origin(self) -> bool:
        """Whether a page of this server asks; browsers always name the origin where it matters."""
        try:
            return urlsplit(self.header(b"origin")).netloc == self.header(b"host") != ""
        except ValueError:
            return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def _with_headers(send: Send, path: str, encrypted: bool) -> Send:
    more = list(_SAFE_HEADERS)
    if not path.startswith(_KEPT_BY_BROWSER):
        more.append((b"cache-control", b"no-store"))
    if encrypted:
        more.append((b"strict-transport-security", b"max-age=31536000"))
    ours = {name for name, _ in more}

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            theirs = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            message = {**message, "headers": [*theirs, *more]}
        await send(message)

    return send_with


async def _form(receive: Receive) -> dict[str, str]:
    body, more = b"", True
    while more and len(body) <= _LARGEST_FORM:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    fields = parse_qs(body[:_LARGEST_FORM].decode("utf-8", "replace"), max_num_fields=4)
    return {name: values[0] for name, values in fields.items()}


async def _page(send: Send, status: int, html: str, headers: _Headers | None = None) -> None:
    await _answer(send, status, html.encode(), [(b"content-type", b"text/html; charset=utf-8"), *(headers or [])])


async def _answer(send: Send, status: int, body: bytes, headers: _Headers | None = None) -> None:
    given = headers or [(b"content-type", b"text/plain; charset=utf-8")]
    given = [*given, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})
