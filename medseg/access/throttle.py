"""How long somebody must wait after wrong passwords: not at all for the first five, then twice as long each time.

Knows nothing of what is tried. Counted for a user and for an address, so that neither guessing one user's password
from many places nor many users' from one place is quick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

FREE = 5
"""Wrong attempts without a wait."""
FIRST, LONGEST = 2.0, 900.0
"""Seconds of the first and the longest wait."""
_MOST = 10_000
"""Keys that are remembered; beyond, those whose wait is over go."""


@dataclass
class _Failures:
    count: int
    until: float


class Throttle:
    """Failures by key; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[Hashable, _Failures] = {}
        self._lock = threading.Lock()

    def wait(self, *keys: Hashable) -> float:
        """Seconds until the next attempt under these keys is looked at; 0 when it may come now."""
        now = self._clock()
        with self._lock:
            waits = [known.until - now for key in keys if (known := self._failures.get(key))]
        return max([0.0, *waits])

    def failed(self, *keys: Hashable) -> None:
        """Note a wrong attempt."""
        now = self._clock()
        with self._lock:
            if len(self._failures) > _MOST:
                self._failures = {key: one for key, one in self._failures.items() if one.until > now}
            for key in keys:
                count = self._failures[key].count + 1 if key in self._failures else 1
                wait = min(LONGEST, FIRST * 2.0 ** (count - FREE)) if count >= FREE else 0.0
                self._failures[key] = _Failures(count, now + wait)

    def succeeded(self, *keys: Hashable) -> None:
        """Forget the wrong attempts."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)
