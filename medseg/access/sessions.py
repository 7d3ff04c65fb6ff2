"""Who is signed in: random tokens that end when unused for a while, and after a working day in any case.

Knows nothing of cookies or passwords. A token is 256 random bits and only its hash is kept, so nothing needs a
signature and signing out ends a session at once; a restart of the server ends all of them.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Session:
    """One browser of one user; times are seconds of the clock that Sessions was given."""

    user: str
    began: float
    used: float


class Sessions:
    """The sessions of one server; safe to use from several threads."""

    def __init__(self, idle: float, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle, self._longest, self._clock = idle, longest, clock
        self._open: dict[bytes, Session] = {}
        self._lock = threading.Lock()

    def begin(self, user: str) -> str:
        """A new session's token."""
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._open = {key: one for key, one in self._open.items() if self._remaining(one, now) > 0}
            self._open[_key(token)] = Session(user, now, now)
        return token

    def user(self, token: str, use: bool = True) -> str | None:
        """Whose session this is, or None when it has ended; ``use`` counts as activity."""
        now = self._clock()
        with self._lock:
            session = self._open.get(_key(token))
            if session is None:
                return None
            if self._remaining(session, now) <= 0:
                del self._open[_key(token)]
                return None
            session.used = now if use else session.used
            return session.user

    def remaining(self, token: str) -> float:
        """Seconds until the session ends if nobody uses it; 0 when it has ended."""
        with self._lock:
            session = self._open.get(_key(token))
            return max(0.0, self._remaining(session, self._clock())) if session else 0.0

    def end(self, token: str) -> None:
        """Sign out."""
        with self._lock:
            self._open.pop(_key(token), None)

    def _remaining(self, session: Session, now: float) -> float:
        return min(session.used + self._idle, session.began + self._longest) - now


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
