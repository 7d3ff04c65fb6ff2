"""What stands around the pages: the gate in front of everything, and routes for NiiVue, volumes and drawings.

Volumes leave by a random name that a page has asked for, never by a path; the gate has let in whoever asks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from texts import section

from medseg.access.gate import USER_HEADER, Gate
from medseg.access.server import ServerSettings
from medseg.access.shelf import LARGEST_DRAWING, shelf
from medseg.chained_log import ChainedLog
from medseg.errors import MedsegError
from medseg.review.niivue import FILE
from medseg.review.sources import SourceSettings, log_of
from medseg.settings import build, read_words, setting_names

DRAWING = "/drawing"
LIBRARY = Path(__file__).resolve().parent / "assets" / FILE


def read_settings() -> tuple[ServerSettings, ChainedLog]:
    """How to serve, from the words behind the script; the words that say what to look at are left for the pages.

    Ends the program with a sentence where others could look without signing in, or a word is not understood.
    """
    try:
        words = read_words([word for word in sys.argv[1:] if "=" in word])
        own = {name: words.pop(name) for name in setting_names(ServerSettings) if name in words}
        settings = build(ServerSettings, own)
        settings.require_safe()
        audit = log_of(build(SourceSettings, words))
    except MedsegError as error:
        sys.exit(f"medseg view: {error}")
    sys.argv[1:] = [f"{name}={value}" for name, value in words.items()]
    return settings, ChainedLog(audit)


def options(settings: ServerSettings) -> dict[str, object]:
    """Streamlit's, beside those of ``.streamlit/config.toml``."""
    found: dict[str, object] = {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.headless": True,
        "logger.level": "error",
        "browser.gatherUsageStats": False,
        "client.showErrorDetails": "none",
        "server.fileWatcherType": "none",
        "server.enableStaticServing": False,
        "server.allowedHosts": sorted(settings.names),
    }
    if settings.certificate is not None:
        found |= {"server.sslCertFile": str(settings.certificate), "server.sslKeyFile": str(settings.key)}
    return found


def routes(audit: ChainedLog) -> list[Route]:
    """What the server answers beside Streamlit."""

    async def library(_: Request) -> Response:
        return FileResponse(LIBRARY, media_type="text/javascript") if LIBRARY.is_file() else _nothing()

    async def volume(request: Request) -> Response:
        path = shelf().find(request.path_params["name"])
        if path is None or not path.is_file():
            return _nothing()
        audit.append("volume read", user=user_of(request), file=str(path))
        return FileResponse(path, media_type="application/gzip")

    async def drawing(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_DRAWING:
                return PlainTextResponse("The drawing is too large.", 413)
        return JSONResponse({"drawing": shelf().receive(user_of(request), body)})

    return [
        Route(f"/{FILE}", library),
        Route("/volume/{name}/volume.nii.gz", volume),
        Route(DRAWING, drawing, methods=["POST"]),
    ]


def layers(settings: ServerSettings, audit: ChainedLog) -> Sequence[Middleware]:
    """The gate, outermost, and one that keeps Streamlit from compressing what is compressed."""
    gate = Middleware(
        Gate,
        keeper=settings.keeper(section("sign_in")),
        audit=audit,
        names=settings.names,
        encrypted=settings.is_encrypted,
    )
    return [gate, Middleware(_AsItIs)]


def user_of(request: Request) -> str:
    """Who the gate says it is."""
    return unquote(request.headers[USER_HEADER.decode()])


class _AsItIs:
    """Volumes are gzip files: to pack them again costs a second each and ranges of them would be lost."""

    def __init__(self, app) -> None:
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/volume/"):
            headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


def _nothing() -> Response:
    return PlainTextResponse("There is nothing of that name.", 404)
