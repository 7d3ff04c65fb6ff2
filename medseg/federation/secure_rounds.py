"""A round of which the coordinator sees the sum and no part: all who begin an attempt have to end it.

Knows no masks, only that they cancel when everyone named in the Request has answered. Where one has not, the attempt is
lost and a new one begins, with all of them or, where the policy allows for missing sites, with those who answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medseg.errors import SiteError
from medseg.federation.joining import Found, moved_on, under
from medseg.federation.messages import Reply, Request, Transport
from medseg.federation.run_state import RoundRecord, RunState, Tensors
from medseg.federation.secure_site import PREFIX
from medseg.federation.secure_sum import FEWEST_SITES, unmasked_sum
from medseg.federation.validation import require_answer
from medseg.federation.waiting import Clock, reachable

_REPLAYED = "secure-sum-replayed"


def secure_round(transport: Transport, state: RunState, tensors: Tensors, clock: Clock) -> tuple[RunState, Tensors]:
    """The state and tensors after one round; ``paused`` where no attempt was ended by enough sites."""
    number, started, found = state.round + 1, clock.now(), Found()
    needed = max(state.quorum, FEWEST_SITES)
    wanted = [site for site in state.sites if site not in state.quarantined]
    for attempt in range(1 + state.policy.retries):
        there = reachable(transport, wanted, state, 0, clock)
        if len(there) < needed:
            break
        replies = _ask(transport, state, tensors, number, attempt, there, found)
        if len(replies) == len(there):
            record = _record(state, number, attempt, there, found, round(clock.now() - started, 3))
            update = {
                "round": number,
                "history": (*state.history, record),
                "accounts": {**state.accounts, **found.accounts},
            }
            return state.model_copy(update=update), moved_on(state, tensors, _change(state, replies))
        # Who refused since a killed coordinator had asked before is there, and answers the next attempt.
        alive = [site for site in there if site in replies or found.rejected.get(site) == _REPLAYED]
        wanted = alive if state.policy.allow_missing and len(alive) >= needed else wanted
    who = ", ".join(f"{site} ({found.rejected.get(site, 'no answer')})" for site in state.sites)
    reason = f"round {number}: no sum was ended by all of the {needed} or more sites that began it; missing: {who}"
    return state.model_copy(update={"status": "paused", "reason": reason}), tensors


def _ask(
    transport: Transport,
    state: RunState,
    tensors: Tensors,
    number: int,
    attempt: int,
    there: Sequence[str],
    found: Found,
) -> dict[str, Reply]:
    """The usable replies to one attempt; why others are not is noted."""
    requests = _requests(state, tensors, number, attempt, there)
    found.bytes_down += sum(len(request.to_bytes()) for request in requests.values())
    usable: dict[str, Reply] = {}
    found.rejected.clear()
    for site, reply in sorted(transport.exchange(requests, state.policy.deadline).items()):
        found.bytes_up += len(reply.to_bytes())
        try:
            _require_usable(site, requests[site], reply, state, under(tensors, "weights"))
        except SiteError as error:
            found.rejected[site] = str(error)
            continue
        usable[site] = reply
        found.take_header(site, reply)
    return usable


def _requests(state: RunState, tensors: Tensors, number: int, attempt: int, there: Sequence[str]) -> dict[str, Request]:
    """To each its own: they differ by the public weight with which a site's change counts."""
    arrays = {name: array for name, array in tensors.items() if name.startswith("weights.")}
    settings, names = state.settings.model_dump(mode="json"), sorted(there)
    return {
        site: Request(
            "train",
            state.run,
            number,
            state.plan_sha256,
            {
                "settings": settings,
                "secure_sum": {"attempt": attempt, "participants": list(names), "weight": weight},
            },
            arrays,
        )
        for site, weight in _weights(state, names).items()
    }


def _weights(state: RunState, names: Sequence[str]) -> dict[str, float]:
    if state.settings.privacy.mode == "secure_patient":
        return dict.fromkeys(names, 1.0)  # a sum over patients, each of whom counts the same
    if state.settings.weighting == "uniform":
        return dict.fromkeys(names, 1 / len(names))
    total = sum(state.cases[name] for name in names)
    return {name: state.cases[name] / total for name in names}


def _require_usable(
    site: str, request: Request, reply: Reply, state: RunState, weights: Mapping[str, np.ndarray]
) -> None:
    require_answer(site, request, reply, state.settings)
    for name, array in reply.arrays.items():
        known = weights.get(name.removeprefix(PREFIX))
        if not name.startswith(PREFIX) or known is None:
            raise SiteError("bad-update-names")
        if array.shape != known.shape or array.dtype != np.uint32:
            raise SiteError("bad-update-shape")


def _change(state: RunState, replies: Mapping[str, Reply]) -> dict[str, np.ndarray]:
    """The mean change; of summed gradients the step of descent, whose length is the server's rate."""
    masked = {
        site: {name.removeprefix(PREFIX): array for name, array in reply.arrays.items()}
        for site, reply in replies.items()
    }
    summed = unmasked_sum(masked, tuple(replies))
    privacy = state.settings.privacy
    if privacy.mode != "secure_patient":
        return summed
    expected = privacy.sample_rate * sum(state.patients[site] for site in replies)
    return {name: -array / expected for name, array in summed.items()}


def _record(
    state: RunState, number: int, attempt: int, there: Sequence[str], found: Found, seconds: float
) -> RoundRecord:
    return RoundRecord(
        round=number,
        sites=tuple(sorted(there)),
        missing=tuple(site for site in state.sites if site not in there),
        attempts=attempt + 1,
        dice=found.dice,
        bytes_up=found.bytes_up,
        bytes_down=found.bytes_down,
        seconds=seconds,
    )
