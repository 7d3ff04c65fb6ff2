"""For how long sites are waited for, and by which clock.

Knows nothing of what they are asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from medseg.federation.messages import Transport
from medseg.federation.run_state import RunState

_POLL_S = 0.5


@dataclass(frozen=True)
class Clock:
    """What time it is; tests have one of their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def reachable(transport: Transport, wanted: list[str], state: RunState, have: int, clock: Clock) -> list[str]:
    """Those of the wanted sites that can be reached: all, or after the grace enough of them, or after the deadline."""
    started = clock.now()
    while True:
        there = [site for site in wanted if site in transport.sites()]
        waited = clock.now() - started
        enough = have + len(there) >= state.quorum and waited >= state.policy.grace
        if len(there) == len(wanted) or enough or waited >= state.policy.deadline:
            return there
        clock.sleep(_POLL_S)
