"""From what the sites sent in a round to the tensors after it.

Knows nothing of how it came. Changes are joined in the order of the sites' names, so that equal replies give equal
bytes; only the noise of privacy=client is never the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medseg.federation.aggregation import Change, control_step
from medseg.federation.messages import Reply
from medseg.federation.privacy.certificate import SiteAccount
from medseg.federation.privacy.client_level import private_mean
from medseg.federation.privacy.noise import SystemNoise
from medseg.federation.run_state import RunState, Tensors
from medseg.federation.strategies import STRATEGIES
from medseg.federation.validation import read_account


@dataclass
class Found:
    """What has come in so far in one round."""

    deltas: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    controls: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)
    dice: dict[str, float] = field(default_factory=dict)
    accounts: dict[str, SiteAccount] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def take_header(self, site: str, reply: Reply) -> None:
        """What a usable reply says beside its change."""
        dice, account = reply.header.get("dice"), read_account(site, reply)
        if isinstance(dice, float):
            self.dice[site] = dice
        if account is not None:
            self.accounts[site] = account


def joined(state: RunState, tensors: Tensors, found: Found, number: int, pending: Mapping[str, int]) -> Tensors:
    """All tensors after the round: the weights, what the server remembers, and weights that a late site began from."""
    names = sorted(found.deltas)
    result = moved_on(state, tensors, _joint_change(state, found, names))
    if state.settings.control:
        control = control_step(under(tensors, "control"), [found.controls[n] for n in names], len(state.sites))
        result |= {f"control.{name}": array for name, array in control.items()}
    for owed in set(pending.values()):
        old = under(tensors, "weights" if owed == number else f"old-{owed}")
        result |= {f"old-{owed}.{name}": array for name, array in old.items()}
    return result


def moved_on(state: RunState, tensors: Mapping[str, np.ndarray], change: Mapping[str, np.ndarray]) -> Tensors:
    """The weights, and what the server remembers, after a step by the sites' joint change."""
    delta = {name: state.settings.server_rate * array for name, array in change.items()}
    step = STRATEGIES[state.strategy].step
    moved, memory = step(under(tensors, "weights"), delta, under(tensors, "memory"))
    result = {f"weights.{name}": array for name, array in moved.items()}
    return result | {f"memory.{name}": array for name, array in memory.items()}


def _joint_change(state: RunState, found: Found, names: list[str]) -> dict[str, np.ndarray]:
    privacy = state.settings.privacy
    if privacy.mode == "client":
        assert privacy.noise_multiplier is not None  # settled
        updates = [found.deltas[name] for name in names]
        return private_mean(updates, privacy.clip, privacy.noise_multiplier, len(state.sites), SystemNoise())
    counted = state.settings.weighting == "cases"
    changes = [
        Change(found.deltas[name], float(state.cases[name]) if counted else 1.0, found.ages[name]) for name in names
    ]
    return STRATEGIES[state.strategy].join(changes)


def under(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors under a prefix, without it."""
    return {n.removeprefix(prefix + "."): a for n, a in tensors.items() if n.startswith(prefix + ".")}
