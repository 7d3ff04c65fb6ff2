"""Files and drawings that pages hand to the server and the server to browsers, under random names.

Knows nothing of what they hold. A name from a request is only ever looked up, never made into a path, so no request
reaches a file that a page has not laid here.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from functools import cache
from pathlib import Path

_MOST_FILES, _MOST_DRAWINGS = 4096, 16
LARGEST_DRAWING = 64 * 2**20
"""Bytes of a drawing as it is sent; label maps compress to far less."""


class Shelf:
    """What one server hands out; safe to use from several threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, Path] = OrderedDict()
        self._names: dict[Path, str] = {}
        self._drawings: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def offer(self, path: Path) -> str:
        """The name under which browsers get this file; the same file keeps its name."""
        path = path.resolve()
        with self._lock:
            name = self._names.setdefault(path, secrets.token_urlsafe(24))
            self._files[name] = path
            self._files.move_to_end(name)
            if len(self._files) > _MOST_FILES:
                _, oldest = self._files.popitem(last=False)
                del self._names[oldest]
            return name

    def find(self, name: str) -> Path | None:
        """The file of this name, or None."""
        with self._lock:
            return self._files.get(name)

    def receive(self, user: str, drawing: bytes) -> str:
        """Keep what a user drew until a page takes it; the oldest are forgotten."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._drawings[name] = (user, drawing)
            if len(self._drawings) > _MOST_DRAWINGS:
                self._drawings.popitem(last=False)
        return name

    def take(self, user: str, name: str) -> bytes | None:
        """What this user drew, once; None where there is nothing of that name."""
        with self._lock:
            owner, drawing = self._drawings.get(name, ("", b""))
            if not drawing or owner != user:
                return None
            del self._drawings[name]
            return drawing


@cache
def shelf() -> Shelf:
    """The one of this process, which its pages and its routes share."""
    return Shelf()
