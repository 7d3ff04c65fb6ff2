"""Whether a model gives away who it was trained on: the loss-threshold attack, as one number.

Knows nothing of networks: it is handed losses. The attack says "was in the training" of whoever has the smaller loss
(Yeom et al. 2018, arXiv 1709.01604); its AUC is the chance that a member's loss is below a stranger's. It is a lower
bound on what an attacker can do: 0.5 does not prove privacy, but more than 0.5 disproves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.documents import Record
from medseg.errors import MedsegError


class Membership(Record):
    """How well losses tell members from strangers."""

    auc: float
    """0.5: not at all; 1: always."""
    low: float
    high: float
    """95 % interval by the bootstrap over both groups."""
    members: int
    strangers: int


def membership_auc(members: Sequence[float], strangers: Sequence[float], resamples: int = 2000) -> Membership:
    """The attack's AUC from the losses of those in the training and of others like them; equal losses count half.

    Raises MedsegError where a group is empty or a loss is no finite number.
    """
    inside, outside = np.asarray(members, float), np.asarray(strangers, float)
    if not inside.size or not outside.size or not np.isfinite([*inside, *outside]).all():
        raise MedsegError(
            f"Membership inference compares finite losses of at least one member and one stranger, but got "
            f"{inside.size} and {outside.size}. Give both groups cases."
        )
    random = np.random.default_rng(0)
    wins = (inside[:, None] < outside[None]) + 0.5 * (inside[:, None] == outside[None])
    drawn = [
        wins[random.integers(inside.size, size=inside.size)][:, random.integers(outside.size, size=outside.size)].mean()
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Membership(
        auc=float(wins.mean()), low=float(low), high=float(high), members=inside.size, strangers=outside.size
    )
