"""Where simulated sites do their work: one after the other in this process, or all at once on Ray.

Knows nothing of what is asked. Both pass every message through its bytes, so both end in the same weights.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.errors import SettingsError
from medseg.federation.in_process import InProcess, Members
from medseg.federation.messages import Reply, Request, Transport
from medseg.federation.site import Site

_POLL_S = 0.5


@dataclass(frozen=True)
class OnRay(Members):
    """Sites as Ray tasks, a core of this machine each."""

    def exchange(
        self,
        requests: Mapping[str, Request],
        deadline_s: float,
        enough: Callable[[Mapping[str, Reply]], bool] | None = None,
    ) -> dict[str, Reply]:
        """Ask all at once; what is not there by the deadline is left to itself."""
        ray = _started()
        known = {site.name: site for site in self.members}
        task = ray.remote(num_cpus=1, max_retries=0)(_answered)
        running = {task.remote(known[name], requests[name].to_bytes()): name for name in requests if name in known}
        replies: dict[str, Reply] = {}
        until = time.monotonic() + deadline_s
        while running and time.monotonic() < until and not (enough is not None and enough(replies)):
            done, _ = ray.wait([*running], num_returns=1, timeout=min(_POLL_S, max(until - time.monotonic(), 0)))
            for one in done:
                name = running.pop(one)
                try:
                    replies[name] = Reply.from_bytes(ray.get(one))
                except ray.exceptions.RayError:
                    continue  # a node that broke down is a site that did not answer
        return replies


def engine_named(name: str) -> Callable[[Sequence[Site]], Transport]:
    """What connects sites: ``process`` or ``ray``."""
    return {"process": InProcess, "ray": OnRay}[name]


def _answered(site: Site, data: bytes) -> bytes:
    return site.answer(Request.from_bytes(data)).to_bytes()


def _started() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default, and no warning about it
    try:
        import ray
    except ImportError:
        raise SettingsError("engine=ray needs an extra: pip install 'medseg[cluster]'.") from None
    if not ray.is_initialized():
        # Its own on the loopback: a note in /tmp of a cluster that is long gone would be waited for.
        ray.init(
            "local",
            log_to_driver=False,
            include_dashboard=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    return ray
