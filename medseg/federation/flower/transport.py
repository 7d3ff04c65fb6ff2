"""Requests to named hospitals and their Replies, over Flower's Grid.

Knows nothing of rounds. A node is who its registered public key says, whatever name it goes by; Flower's own waiting,
which can last for ever, is not used. A site that is not there yet is asked when it comes, while the deadline lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from flwr.app import Message
from flwr.serverapp import Grid

from medseg.errors import SiteError
from medseg.federation.certificates import same_key
from medseg.federation.flower.letters import enclose, read_error, unfold
from medseg.federation.messages import Reply, Request

Note = Callable[[str, str, Request | Reply, bytes], None]
_AFTERWARDS_S = 60.0
"""How long past the deadline Flower keeps a message, so that ours is the clock that decides."""


@dataclass
class FlowerTransport:
    """The Transport of a federation whose sites are Flower's SuperNodes."""

    grid: Grid
    keys: Mapping[str, EllipticCurvePublicKey]
    """Of every site its public key; nodes with other keys are not asked and not heard."""
    pause_s: float = 1.0
    """Between two looks at what has come."""
    note: Note = lambda *_: None
    """Hears of everything that is sent and received: "sent" or "received", the site, the message, its bytes."""
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes to each site so far."""
    received: dict[str, int] = field(default_factory=dict)

    def sites(self) -> tuple[str, ...]:
        """Names of the sites that are online, in the order of the federation."""
        online = self._online()
        return tuple(name for name in self.keys if name in online)

    def exchange(
        self,
        requests: Mapping[str, Request],
        deadline_s: float,
        enough: Callable[[Mapping[str, Reply]], bool] | None = None,
    ) -> dict[str, Reply]:
        """Ask the named sites and wait for their Replies, never past the deadline; missing ones are simply absent."""
        if unknown := set(requests) - set(self.keys):
            raise SiteError(f"unknown-site-{min(unknown)}")
        end = time.monotonic() + deadline_s
        waiting, open_ = dict(requests), dict[str, str]()
        replies: dict[str, Reply] = {}
        while True:
            online = self._online() if waiting else {}
            for site in [site for site in waiting if site in online]:
                message = self._send(site, online[site], waiting[site], end - time.monotonic() + _AFTERWARDS_S)
                if message is not None:
                    open_[message] = site
                    del waiting[site]
            for message in self.grid.pull_messages(list(open_)) if open_ else ():
                site = open_.pop(message.metadata.reply_to_message_id)
                replies[site] = self._receive(site, requests[site], message)
            left = end - time.monotonic()
            if left <= 0 or not (waiting or open_) or (enough is not None and enough(replies)):
                return replies
            time.sleep(min(self.pause_s, left))

    def _online(self) -> dict[str, int]:
        """Site -> Flower's number of the node that holds its key."""
        nodes = list(self.grid.get_nodes())
        found = {}
        for name, key in self.keys.items():
            for node in nodes:
                if same_key(key, node.public_key):
                    found[name] = node.node_id
        return found

    def _send(self, site: str, node: int, request: Request, ttl: float) -> str | None:
        data = request.to_bytes()
        message = Message(enclose(data), node, "query", ttl=ttl, group_id=str(request.round))
        # One at a time: a model and its copies are in memory once and not once for every site.
        numbers = [number for number in self.grid.push_messages([message]) if number]
        if not numbers:
            return None
        self.sent[site] = self.sent.get(site, 0) + len(data)
        self.note("sent", site, request, data)
        return numbers[0]

    def _receive(self, site: str, request: Request, message: Message) -> Reply:
        data = b""
        try:
            if message.has_error():
                raise SiteError(read_error(message.error))
            data = unfold(message.content)
            reply = Reply.from_bytes(data)
            if reply.site != site:
                raise SiteError("another-sites-name")
        except SiteError as error:
            reply = Reply(site, request.action, request.round, error=str(error))
        self.received[site] = self.received.get(site, 0) + len(data)
        self.note("received", site, reply, data)
        return reply
