"""Requests and answers of an ASGI server, as far as the gate looks at them and speaks itself.

Knows nothing of users. Answers carry the headers that keep a browser from running or sending what it should not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

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
_SAFE_HEADERS: Headers = [
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


class Request:
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
    def query(self) -> dict[str, str]:
        """What stands behind the question mark; of what is said twice, the last."""
        try:
            return dict(parse_qsl(self.scope.get("query_string", b"").decode("latin-1"), max_num_fields=16))
        except ValueError:
            return {}

    def cookie(self, name: str) -> str:
        try:
            morsel = SimpleCookie(self.header(b"cookie")).get(name)
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


def cookie(name: str, value: str, path: str, same_site: str, encrypted: bool, age: int | None) -> tuple[bytes, bytes]:
    """The header that lays a cookie which scripts can't read; one of age 0 is taken away."""
    parts = [f"{name}={value}", f"Path={path}", "HttpOnly", f"SameSite={same_site}"]
    parts += ["Secure"] if encrypted else []
    parts += [f"Max-Age={age}"] if age is not None else []
    return b"set-cookie", "; ".join(parts).encode()


def with_safe_headers(send: Send, path: str, encrypted: bool) -> Send:
    """Send answers with the headers that hold a browser back, over whatever lies behind says."""
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


async def read_form(receive: Receive) -> dict[str, str]:
    """The fields of a small form; of a large one, those at its beginning."""
    body, more = b"", True
    while more and len(body) <= _LARGEST_FORM:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    try:
        fields = parse_qs(body[:_LARGEST_FORM].decode("utf-8", "replace"), max_num_fields=4)
    except ValueError:  # more fields than any form of ours has
        return {}
    return {name: values[0] for name, values in fields.items()}


async def answer_page(send: Send, status: int, html: str, headers: Headers | None = None) -> None:
    """Answer with a page."""
    await answer(send, status, html.encode(), [(b"content-type", b"text/html; charset=utf-8"), *(headers or [])])


async def answer(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Answer at once and whole."""
    given = headers or [(b"content-type", b"text/plain; charset=utf-8")]
    given = [*given, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})
