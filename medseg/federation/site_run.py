"""A run as one site sees it: the agreed plan, its own cases, the Recipe, and what it remembers between rounds.

Knows nothing of what is done with them. Everything lies in the site's own folder: ``prepared/`` is shared by all runs,
``runs/<run>/`` holds the plan, the state after each of the last two rounds and the replies to them. A state or a reply
is written whole, so that a killed site goes on from where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import make_folds
from medseg.cases.formats import read_dataset
from medseg.cases.labels import LabelTable
from medseg.errors import SiteError
from medseg.federation.messages import Reply, Request
from medseg.federation.run_settings import RunSettings
from medseg.files import written_whole
from medseg.inference.model import preparation_of
from medseg.networks.weights import load_weights, save_weights
from medseg.planning.plan import ConfigurationPlan, Plan
from medseg.preprocessing.store import data_hash, prepare_cases, shaping_hash
from medseg.training.recipe import Recipe, settle_optimizer
from medseg.training.schedule import Part, planned_stretch

if TYPE_CHECKING:
    from medseg.federation.site import Site

_KEPT_ROUNDS = 2


@dataclass(frozen=True)
class SiteRun:
    """One run at one site."""

    site: Site
    run: str
    plan: Plan

    @classmethod
    def begun(cls, site: Site, request: Request) -> SiteRun:
        """The run that a Request belongs to. Raises SiteError where it was not prepared, or for another Plan."""
        path = _folder(site, request.run) / "plan.yaml"
        if not path.is_file():
            raise SiteError("not-prepared")
        plan = Plan.load(path)
        if plan.content_hash() != request.plan_sha256:
            raise SiteError("other-plan")
        return cls(site, request.run, plan)

    @property
    def folder(self) -> Path:
        """Its own files at the site."""
        return _folder(self.site, self.run)

    @cached_property
    def dataset(self) -> Dataset:
        """What the site has."""
        return read_dataset(self.site.dataset)

    @property
    def table(self) -> LabelTable:
        """The site's own: its values may differ from others', its names may not."""
        return self.dataset.labels

    @property
    def configuration(self) -> ConfigurationPlan:
        """The plan's default one."""
        return self.plan.configuration(None)[1]

    @property
    def prepared(self) -> Path:
        """Where the prepared arrays lie."""
        return self.site.folder / "prepared" / shaping_hash(self.table, self.plan, self.configuration)[:12]

    @cached_property
    def split(self) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """(cases to train on, cases held out)."""
        return training_and_held_out(self.site, self.dataset)

    def keep_plan(self) -> None:
        """Note the Plan; what was remembered of a run of this name under another one is forgotten."""
        path = self.folder / "plan.yaml"
        if path.is_file() and Plan.load(path).content_hash() != self.plan.content_hash():
            for old in (*self._files("state", ".safetensors"), *self._files("reply", ".bin")):
                old.unlink(missing_ok=True)
        self.plan.save(path)

    def prepare(self) -> None:
        """Prepare every case that is not yet. Raises DatasetError."""
        training, held_out = self.split
        prepare_cases((*training, *held_out), self.table, self.plan, self.configuration, self.prepared)

    def recipe(self, settings: RunSettings) -> Recipe:
        """What this site's training does, over all rounds; its patches are other sites' with another seed."""
        training, held_out = (tuple(case.name for case in cases) for cases in self.split)
        plan = self.plan.training
        optimizer = settle_optimizer(plan.optimizer, settings.iterations)
        own = int(hashlib.sha256(self.site.name.encode()).hexdigest()[:6], 16)
        settled = {"iterations": settings.iterations, "optimizer": optimizer, "seed": plan.seed + own}
        return Recipe(
            configuration_name=self.plan.default_configuration,
            configuration=self.configuration,
            training=plan.model_copy(update=settled),
            parts=(Part(stretch=planned_stretch(optimizer, settings.iterations)),),
            fold=0,
            channels=len(self.plan.channels),
            labels=self.table,
            plan=self.plan.content_hash(),
            preparation=preparation_of(self.plan),
            shaping=shaping_hash(self.table, self.plan, self.configuration),
            data=data_hash(self.prepared, training),
            training_cases=training,
            validation_cases=held_out,
            threads=torch.get_num_threads(),
        )

    def state_before(self, round_number: int) -> dict[str, Tensor]:
        """What the site remembers of the last round it took part in before this one; empty where there is none."""
        earlier = [path for path in self._files("state", ".safetensors") if _round_of(path) < round_number]
        return load_weights(earlier[-1])[0] if earlier else {}

    def keep_state(self, round_number: int, state: Mapping[str, Tensor]) -> None:
        """Remember the state after a round; older than the last two are forgotten."""
        save_weights(self.folder / f"state_{round_number:06d}.safetensors", state, {"round": round_number})
        _forget(self._files("state", ".safetensors"), round_number)

    def cached(self, request: Request) -> Reply | None:
        """The reply to this very Request, if it was answered before: training again would cost time, and privacy."""
        path = self._reply_file(request)
        return Reply.from_bytes(path.read_bytes()) if path.is_file() else None

    def keep_reply(self, request: Request, reply: Reply) -> None:
        """Keep a reply to be sent again; older than those of the last two rounds are forgotten."""
        with written_whole(self._reply_file(request)) as temporary:
            temporary.write_bytes(reply.to_bytes())
        _forget(self._files("reply", ".bin"), request.round)

    def _reply_file(self, request: Request) -> Path:
        digest = hashlib.sha256(request.to_bytes()).hexdigest()
        return self.folder / f"reply_{request.round:06d}_{digest[:16]}.bin"

    def _files(self, kind: str, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}_*{suffix}"))


def training_and_held_out(site: Site, dataset: Dataset) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """(cases to train on, cases held out): the dataset's own test set, else its first fold.

    At a site that doesn't train everything is held out.
    """
    if "train" not in site.policy.actions:
        return (), (*dataset.cases, *dataset.test)
    if dataset.test:
        return dataset.cases, dataset.test
    training, held_out = (set(names) for names in make_folds(dataset).split(0))
    return (
        tuple(case for case in dataset.cases if case.name in training),
        tuple(case for case in dataset.cases if case.name in held_out),
    )


def _folder(site: Site, run: str) -> Path:
    return site.folder / "runs" / run


def _round_of(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _forget(files: Sequence[Path], newest: int) -> None:
    for path in files:
        if _round_of(path) <= newest - _KEPT_ROUNDS:
            path.unlink(missing_ok=True)
