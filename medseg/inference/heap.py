"""Memory that was freed goes back to the system, so that ten networks one after the other need no more than one.

Knows nothing of what was computed. glibc keeps freed blocks of up to 32 MiB for later, and blocks of other sizes do not
always fit into what it kept: the peak of ten networks was up to a third above that of one, by chance of the run
(tests/benchmarks/ensemble_memory.py). Asked once for each batch of tiles this takes no time that could be measured
there; after every network it took a third more, and never keeping blocks (MALLOC_MMAP_THRESHOLD_) twice the time.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back_freed() -> None:
    """Ask glibc to return what it holds and nobody uses; nothing happens with other systems or C libraries."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # musl
        return None
