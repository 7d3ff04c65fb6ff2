"""Where a federated run stands, on the coordinator's disk: enough to go on after a kill at any moment.

Knows nothing of how a round is done. The tensors are written first under a name of their own, then ``run.json`` that
names them: what is there is always one whole round. Nothing in it is random, so there is no random state to keep.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt

from medseg.documents import Document, Record
from medseg.errors import MedsegError, SiteError
from medseg.federation.privacy.certificate import SiteAccount
from medseg.federation.run_settings import RunSettings
from medseg.federation.strategies import STRATEGIES, StrategyName
from medseg.networks.weights import load_weights, save_weights
from medseg.settings import Seconds

Status = Literal["running", "paused", "completed", "completed-with-gaps"]
Tensors = dict[str, np.ndarray]
_NAME = "run.json"


class RoundPolicy(Record):
    """For whom a round waits, how long, and what it does not take."""

    min_sites: PositiveInt | None = None
    """Sites without which no round is done, where some may be missing; by default all (strategy=async: all but one)."""
    allow_missing: bool = False
    """Whether a round may end without some site, as long as there are min_sites; the report names it."""
    deadline: Seconds = 3600.0
    """Longest time to wait for sites to be there, and for their answers, each time they are asked."""
    grace: Seconds = 60.0
    """How long it still waits for the others once min_sites have answered."""
    retries: int = Field(default=2, ge=0)
    """How often missing sites are asked again before the run pauses."""
    most_rejections: PositiveInt = 3
    """After so many answers that could not be used a site is no longer asked."""
    norm_factor: float = Field(default=10.0, gt=1)
    """A change so many times longer than the median of earlier ones is not taken."""
    most_rounds_late: PositiveInt = 5
    """strategy=async: a change that is later than this is not waited for any more."""


class RoundRecord(Record):
    """What happened in one round."""

    round: PositiveInt
    sites: tuple[str, ...]
    """Whose changes were taken."""
    missing: tuple[str, ...] = ()
    """Who did not answer in time, or is in quarantine."""
    rejected: dict[str, str] = Field(default_factory=dict)
    """Whose answer was not taken, and the code why."""
    ages: dict[str, int] = Field(default_factory=dict)
    """Rounds by which a change came late, where it did."""
    dice: dict[str, float] = Field(default_factory=dict)
    """Of the model as it came into this round, on each site's held-out cases."""
    norms: dict[str, float] = Field(default_factory=dict)
    """Lengths of the changes that were taken."""
    attempts: PositiveInt = 1
    """How often a masked sum was begun until everyone who had begun it ended it."""
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


class RunState(Document):
    """``run.json``: a run and its rounds so far."""

    kind: ClassVar[str] = "federated-run"
    error: ClassVar[type[MedsegError]] = SiteError

    run: str
    plan_sha256: str
    strategy: StrategyName
    settings: RunSettings
    policy: RoundPolicy
    sites: tuple[str, ...]
    """All that are to take part, in ascending order of name."""
    cases: dict[str, int]
    """Declared by each site when it was prepared; public."""
    patients: dict[str, int] = Field(default_factory=dict)
    """Declared by each site as well; more than one case may be of one patient."""
    start: str = ""
    """SHA-256 of the weights that it began with, where they were not random."""
    accounts: dict[str, SiteAccount] = Field(default_factory=dict)
    """What patients of each site have spent in this run, as the site told last."""
    round: int = 0
    """Rounds that are done."""
    tensors: str = ""
    """File name of the weights after that round, in the same folder."""
    history: tuple[RoundRecord, ...] = ()
    rejections: dict[str, int] = Field(default_factory=dict)
    """Answers of each site that could not be used."""
    pending: dict[str, int] = Field(default_factory=dict)
    """strategy=async: the round whose answer a site still owes."""
    status: Status = "running"
    reason: str = ""
    """Why it is paused."""

    @property
    def quarantined(self) -> tuple[str, ...]:
        """Sites that are no longer asked."""
        return tuple(site for site in self.sites if self.rejections.get(site, 0) >= self.policy.most_rejections)

    @property
    def quorum(self) -> int:
        """Sites without which no round is done."""
        everyone = len(self.sites)
        if STRATEGIES[self.strategy].takes_late:
            return min(self.policy.min_sites or max(everyone - 1, 1), everyone)
        return min(self.policy.min_sites or everyone, everyone) if self.policy.allow_missing else everyone

    @property
    def norms(self) -> list[float]:
        """Lengths of the changes taken lately."""
        return [norm for record in self.history[-10:] for norm in record.norms.values()]

    def saved(self, folder: Path, tensors: Tensors) -> Self:
        """Write the state after a round whole, and forget the one before; gives it with the name of its tensors."""
        file = folder / f"state_{self.round:06d}.safetensors"
        save_weights(file, {name: torch.from_numpy(array) for name, array in tensors.items()}, {"round": self.round})
        state = self.model_copy(update={"tensors": file.name})
        state.save(folder / _NAME)
        for old in folder.glob("state_*.safetensors"):
            if old != file:
                old.unlink(missing_ok=True)
        return state

    @classmethod
    def found(cls, folder: Path) -> tuple[Self, Tensors]:
        """The state in a folder and its tensors. Raises SiteError or CheckpointError."""
        state = cls.load(folder / _NAME)
        tensors, _ = load_weights(folder / Path(state.tensors).name)
        return state, {name: tensor.numpy() for name, tensor in tensors.items()}
