"""The rounds of a federated run: ask, wait, check, join, save; and again from what was saved last.

Knows no network and no hospital: only Requests, Replies and arrays. Nothing is waited for past its deadline; a round
without its quorum is asked again and then the run pauses, with everything saved. Replies are joined in the order of the
names of their sites, so that equal replies give equal bytes, whenever they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medseg.errors import SiteError
from medseg.federation.joining import Found, joined, under
from medseg.federation.messages import Reply, Request, Transport
from medseg.federation.protection import certificate_of
from medseg.federation.run_state import RoundRecord, RunState, Tensors
from medseg.federation.secure_rounds import secure_round
from medseg.federation.strategies import STRATEGIES
from medseg.federation.validation import norms_of, read_change, too_long
from medseg.federation.waiting import Clock, reachable
from medseg.progress import Progress, Silent


def run_rounds(
    transport: Transport, folder: Path, progress: Progress | None = None, clock: Clock | None = None
) -> RunState:
    """Do the rounds that are left of the run in ``folder``; the state it ends in, which may be ``paused``.

    Killed at any moment it can be called again, and ends with the same weights as if it had not been. Raises SiteError
    where there is no run in the folder.
    """
    state, tensors = RunState.found(folder)
    progress, clock = progress or Silent(), clock or Clock()
    state = state.model_copy(update={"status": "running", "reason": ""})
    progress.start(f"Rounds of {state.strategy}", state.settings.rounds)
    progress.advance(state.round)
    while state.round < state.settings.rounds and state.status == "running":
        one_round = secure_round if state.settings.is_masked else _one_round
        state, tensors = one_round(transport, state, tensors, clock)
        state = state.saved(folder, tensors)
        if state.status == "running":
            progress.advance(1, **{"Dice coming in": _mean_dice(state.history[-1])})
    progress.finish()
    state = state if state.status == "paused" else _ended(state).saved(folder, tensors)
    _certify(state, tensors, folder)
    return state


def _certify(state: RunState, tensors: Tensors, folder: Path) -> None:
    """Also of a run that paused: what was spent is spent."""
    settings = state.settings
    trained = sum(a.size for name, a in under(tensors, "weights").items() if settings.privacy.trains(name))
    certificate = certificate_of(state, trained)
    if certificate is not None:
        certificate.save_in(folder)


def _one_round(transport: Transport, state: RunState, tensors: Tensors, clock: Clock) -> tuple[RunState, Tensors]:
    number, started = state.round + 1, clock.now()
    asked = [site for site in state.sites if site not in state.quarantined]
    requests = _requests(state, tensors, number, asked)
    found = Found()
    for _ in range(1 + state.policy.retries):
        open_ = [site for site in asked if site not in found.deltas and site not in found.rejected]
        there = reachable(transport, open_, state, len(found.deltas), clock)
        _ask(transport, {site: requests[site] for site in there}, state, tensors, found, clock)
        if len(found.deltas) >= _needed(state, asked):
            break
    rejections = {**state.rejections, **{site: state.rejections.get(site, 0) + 1 for site in found.rejected}}
    missing = tuple(site for site in state.sites if site not in found.deltas)
    if len(found.deltas) < state.quorum:
        who = ", ".join(f"{site} ({found.rejected.get(site, 'no answer')})" for site in missing)
        reason = f"round {number} has {len(found.deltas)} of {state.quorum} sites it needs; missing: {who}"
        return state.model_copy(update={"status": "paused", "reason": reason, "rejections": rejections}), tensors
    record = RoundRecord(
        round=number,
        sites=tuple(sorted(found.deltas)),
        missing=missing,
        rejected=found.rejected,
        ages={site: age for site, age in found.ages.items() if age},
        dice=found.dice,
        norms=norms_of(found.deltas),
        bytes_up=found.bytes_up,
        bytes_down=found.bytes_down,
        seconds=round(clock.now() - started, 3),
    )
    pending = _still_owed(state, number, missing)
    moved = joined(state, tensors, found, number, pending)
    history = (*state.history, record)
    return (
        state.model_copy(
            update={
                "round": number,
                "history": history,
                "rejections": rejections,
                "pending": pending,
                "accounts": {**state.accounts, **found.accounts},
            }
        ),
        moved,
    )


def _needed(state: RunState, asked: list[str]) -> int:
    """Answers with which asking again is over: all of them, unless the policy does with fewer."""
    return state.quorum if state.policy.allow_missing or STRATEGIES[state.strategy].takes_late else len(asked)


def _requests(state: RunState, tensors: Tensors, number: int, asked: list[str]) -> dict[str, Request]:
    """What each site is asked: this round's work, or again for what it owes from an earlier one."""
    made: dict[int, Request] = {}
    for wanted in {state.pending.get(site, number) for site in asked}:
        weights = under(tensors, "weights" if wanted == number else f"old-{wanted}")
        if state.settings.compression != "none":
            weights = {name: array.astype(np.float16) for name, array in weights.items()}
        arrays = {f"weights.{name}": array for name, array in weights.items()}
        if state.settings.control:
            arrays |= {name: array for name, array in tensors.items() if name.startswith("control.")}
        header = {"settings": state.settings.model_dump(mode="json")}
        made[wanted] = Request("train", state.run, wanted, state.plan_sha256, header, arrays)
    return {site: made[state.pending.get(site, number)] for site in asked}


def _ask(
    transport: Transport,
    requests: Mapping[str, Request],
    state: RunState,
    tensors: Tensors,
    found: Found,
    clock: Clock,
) -> None:
    if not requests:
        return
    have, late = len(found.deltas), STRATEGIES[state.strategy].takes_late
    since: list[float] = []

    def enough(replies: Mapping[str, Reply]) -> bool:
        if have + sum(reply.error is None for reply in replies.values()) < state.quorum:
            return len(replies) == len(requests)
        since.append(clock.now())
        return late or len(replies) == len(requests) or clock.now() - since[0] >= state.policy.grace

    sizes = {id(request): 0 for request in requests.values()}
    for request in requests.values():
        sizes[id(request)] = sizes[id(request)] or len(request.to_bytes())
        found.bytes_down += sizes[id(request)]
    replies = transport.exchange(requests, state.policy.deadline, enough)
    for site in sorted(set(replies) & set(requests)):
        found.bytes_up += len(replies[site].to_bytes())
        _take(site, requests[site], replies[site], state, tensors, found)
    for site in too_long(norms_of(found.deltas), state.norms, state.policy.norm_factor):
        del found.deltas[site]
        found.rejected[site] = "too-long"


def _take(site: str, request: Request, reply: Reply, state: RunState, tensors: Tensors, found: Found) -> None:
    try:
        delta, control = read_change(site, request, reply, state.settings, under(tensors, "weights"))
    except SiteError as error:
        # An error of the site itself may pass: it is asked again, while an answer that can't be used stays what it is.
        if reply.error is None:
            found.rejected[site] = str(error)
        return
    found.deltas[site], found.ages[site] = delta, state.round + 1 - request.round
    if control:
        found.controls[site] = control
    found.take_header(site, reply)


def _still_owed(state: RunState, number: int, missing: tuple[str, ...]) -> dict[str, int]:
    """strategy=async: from which round each missing site owes its answer, unless that is too long ago."""
    if not STRATEGIES[state.strategy].takes_late:
        return {}
    owed = {site: state.pending.get(site, number) for site in missing if site not in state.quarantined}
    return {site: since for site, since in owed.items() if number - since < state.policy.most_rounds_late}


def _ended(state: RunState) -> RunState:
    if STRATEGIES[state.strategy].takes_late:
        complete = set().union(*(record.sites for record in state.history)) == set(state.sites)
    else:
        complete = all(not record.missing for record in state.history)
    return state.model_copy(update={"status": "completed" if complete else "completed-with-gaps"})


def _mean_dice(record: RoundRecord) -> str:
    return f"{np.mean(list(record.dice.values())):.3f}" if record.dice else "-"
