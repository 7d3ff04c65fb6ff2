"""A Transport to sites in this very process, one after the other: deterministic, without a network, without Ray.

Knows nothing of what is asked. Every message goes through its bytes both ways, as it would over a network, so that
nothing passes here that could not pass there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from medseg.federation.messages import Reply, Request, Transport
from medseg.federation.site import Site


@dataclass(frozen=True)
class Members:
    """The sites of a simulation, each known by its name."""

    members: Sequence[Site]

    def sites(self) -> tuple[str, ...]:
        """All of them: nobody is ever offline."""
        return tuple(site.name for site in self.members)


@dataclass(frozen=True)
class InProcess(Members):
    """Sites that are asked one after the other."""

    def exchange(
        self,
        requests: Mapping[str, Request],
        deadline_s: float,  # noqa: ARG002 (what runs in this process is not broken off)
        enough: Callable[[Mapping[str, Reply]], bool] | None = None,  # noqa: ARG002 (nobody is waited for)
    ) -> dict[str, Reply]:
        """Ask one site after the other, in the order of their names."""
        known = {site.name: site for site in self.members}
        return {
            name: Reply.from_bytes(known[name].answer(Request.from_bytes(requests[name].to_bytes())).to_bytes())
            for name in sorted(requests)
            if name in known
        }


@dataclass
class Late:
    """Another Transport, whose sites in ``late`` have to be asked for each training so many times in vain."""

    transport: Transport
    late: Mapping[str, int]
    _asked: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def sites(self) -> tuple[str, ...]:
        """All of the other's."""
        return self.transport.sites()

    def exchange(
        self,
        requests: Mapping[str, Request],
        deadline_s: float,
        enough: Callable[[Mapping[str, Reply]], bool] | None = None,
    ) -> dict[str, Reply]:
        """Ask those that are not late."""
        there = {name: request for name, request in requests.items() if not self._is_late(name, request)}
        return self.transport.exchange(there, deadline_s, enough)

    def _is_late(self, name: str, request: Request) -> bool:
        if name not in self.late or request.action != "train":
            return False
        data = request.to_bytes()
        before, times = self._asked.get(name, (b"", 0))
        times = times if before == data else 0
        self._asked[name] = (data, times + 1)
        return times < self.late[name]
