"""The only door of a coordinator: TLS in front of a SuperLink, and of all its routes only those that sites need.

Knows nothing of what is carried. Flower's SuperLink has one port for everything and asks no credential of whoever
starts runs or takes over tasks there; so it listens on loopback, and this stands before it. A request's target is
looked up in a list and never built from what was sent; headers are passed on by name.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

Message = MutableMapping[str, Any]

FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What a SuperNode with a registered key calls. Registering is the coordinator's own doing, on loopback."""
OPEN = {("GET", "/health"), *(("POST", f"/v1/fleet/{name}") for name in FLEET)}
MOST_BODY = 64 * 2**20
"""Bytes of one request: Flower sends arrays in pieces of 5 MiB."""
_HEADERS = {"content-type", "accept"}
_OWN = "flwr-"
"""Headers of this beginning carry a site's key, signature and version."""
_TIMEOUT_S = 120.0


class Gateway:
    """An ASGI app that passes on what is open, and answers everything else itself."""

    def __init__(
        self,
        upstream: str,
        trust: ssl.SSLContext | bool = True,
        networks: Sequence[IPv4Network | IPv6Network] = (),
        tell: Callable[[str], None] = lambda _: None,
        keep: Callable[[bytes], None] = lambda _: None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``upstream`` is the SuperLink's address and ``trust`` what verifies it.

        Only ``networks`` may send, everybody where there are none; ``tell`` hears of what was refused, and ``keep``
        gets every body that sites send. ``transport`` stands for the network.
        """
        self._upstream, self._networks, self._tell, self._keep = upstream, networks, tell, keep
        # Neither proxies nor certificates from the environment: what sites send goes to loopback and nowhere else.
        self._client = httpx.AsyncClient(verify=trust, trust_env=False, timeout=_TIMEOUT_S, transport=transport)

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] == "http":
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method, path = request.method, request.scope["path"]
        host = request.client.host if request.client else ""
        if self._networks and not _is_within(host, self._networks):
            self._tell(f"{host} is in none of the allowed networks")
            return Response(status_code=403)
        if (method, path) not in OPEN:
            self._tell(f"{method[:8]} {path[:80]!r} from {host} is not open to sites")
            return Response(status_code=404)
        body = await _read(request)
        if body is None:
            return Response(status_code=413)
        self._keep(body)
        try:
            # The path is one of OPEN, letter by letter; the query is left out.
            target = self._upstream + path
            reply = await self._client.request(method, target, content=body, headers=_passed(request.headers))
        except httpx.HTTPError:
            return Response(status_code=502)
        return Response(reply.content, reply.status_code, _passed(reply.headers))


def serve_gateway(app: Gateway, host: str, port: int, certificate: Path, key: Path, end: threading.Event) -> None:
    """Serve until a signal arrives or ``end`` is set."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=str(key),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address that was merely claimed opens no network
        timeout_graceful_shutdown=5,
        limit_concurrency=256,
    )
    server = uvicorn.Server(config)

    def stop_with_it() -> None:
        end.wait()
        server.should_exit = True

    threading.Thread(target=stop_with_it, daemon=True).start()
    server.run()


def _is_within(host: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        return any(ip_address(host) in network for network in networks)
    except ValueError:
        return False


async def _read(request: Request) -> bytes | None:
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY:
                return None
    except ClientDisconnect:
        return None
    return bytes(body)


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() in _HEADERS or name.lower().startswith(_OWN)}
