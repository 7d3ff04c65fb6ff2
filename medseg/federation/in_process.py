"""A Transport to sites in this very process, one after the other: deterministic, without a network, without Ray.

Knows nothing of what is asked. Every message goes through its bytes both ways, as it would over a network, so that
nothing passes here that could not pass there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from medseg.federation.messages import Reply, Request
from medseg.federation.site import Site


@dataclass
class InProcess:
    """Sites by name; those in ``late`` are late with every round of training."""

    members: Sequence[Site]
    late: Mapping[str, int] = field(default_factory=dict)
    """How many times a site has to be asked the same until its answer is there."""
    _asked: dict[tuple[str, bytes], int] = field(default_factory=dict)

    def sites(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(site.name for site in self.members)

    def exchange(
        self,
        requests: Mapping[str, Request],
        deadline_s: float,  # noqa: ARG002 (what runs in this process is not broken off)
        enough: Callable[[Mapping[str, Reply]], bool] | None = None,  # noqa: ARG002 (nobody is waited for)
    ) -> dict[str, Reply]:
        """Ask one site after the other, in the order of their names."""
        known = {site.name: site for site in self.members}
        replies: dict[str, Reply] = {}
        for name in sorted(requests):
            data = requests[name].to_bytes()
            if name in known and not (requests[name].action == "train" and self._is_late(name, data)):
                replies[name] = Reply.from_bytes(known[name].answer(Request.from_bytes(data)).to_bytes())
        return replies

    def _is_late(self, name: str, data: bytes) -> bool:
        if name not in self.late:
            return False
        times = self._asked.get((name, data), 0)
        self._asked = {key: value for key, value in self._asked.items() if key[0] != name} | {(name, data): times + 1}
        return times < self.late[name]
