"""``medseg federated run``: one training over all hospitals of a federation, from a plan to a model.

Beside "medseg federated serve": ``medseg federated run folder=DIR labels=labels.yaml channels=[CT]``
plans from sums of the sites' histograms, ``plan=WORKSPACE`` takes a plan that is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medseg.cases.labels import LabelTable
from medseg.cases.listing import read_label_table
from medseg.commands.console import say
from medseg.commands.federated_protection import ProtectionWords
from medseg.errors import SettingsError
from medseg.federation.compression import Compression
from medseg.federation.offline import require_flower
from medseg.federation.run_settings import RunSettings
from medseg.federation.strategies import StrategyName, require_enough, settings_for
from medseg.paths import Workspace
from medseg.planning.plan import Plan
from medseg.planning.presets import load_preset
from medseg.settings import Seconds, build


class FederatedRunSettings(ProtectionWords):
    """Settings of ``medseg federated run``."""

    folder: Path
    """The federation's folder, from 'medseg federated init'."""
    plan: Path | None = None
    """A workspace with plan.yaml and labels.yaml; without it the plan is made from what the sites measure."""
    labels: Path | None = None
    """The labels.yaml that the sites have agreed on, where there is no plan yet."""
    channels: tuple[str, ...] = ()
    """Names of the channels that the sites have agreed on, in order, where there is no plan yet."""
    preset: str | None = None
    """The preset by which the plan is made; by default federated_dp (few parameters) where patients are protected."""
    budget: Seconds = 3600
    """The time of training at one site for which the network is sized."""
    init_from: Path | None = None
    """Begin with the weights of a bundle or workspace, as far as they fit, instead of random ones."""
    name: str = Field(default="run-1", pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    """The run's name, in small letters without spaces; sites keep their state under it."""
    sites: tuple[str, ...] = ()
    """Which sites take part; by default all."""
    strategy: StrategyName = "fedavg"
    """How what the sites send becomes one network."""
    rounds: PositiveInt = 5
    """Exchanges of weights."""
    steps: PositiveInt = 20
    """Iterations that each site trains in a round."""
    proximal_mu: float = Field(default=0.0, ge=0)
    """How strongly a site is held near the common model; strategy=fedprox has its own default."""
    keep_local: str = ""
    """What stays at its site; norm, head, or a regular expression over names; strategy=personalised has its default."""
    compression: Compression = "none"
    """How changes are made smaller for the way: none, fp16, or int8 with error feedback."""
    server_rate: PositiveFloat = 1.0
    """Factor on the joined change; strategies fedavgm and fedadam have their own default."""
    weighting: Literal["cases", "uniform"] = "cases"
    """Sites count by their number of cases, or all alike."""
    min_sites: PositiveInt | None = None
    """Sites without which no round is done; by default all of them."""
    allow_missing: bool = False
    """Whether a round may end without some site, as long as there are min_sites."""
    deadline: Seconds = 3600
    """Longest time that a round waits for its answers."""
    grace: Seconds = 60
    """How long it still waits for the others once min_sites have answered."""
    retries: int = Field(default=2, ge=0)
    """How often missing sites are asked again before the run pauses."""


SETTINGS = (FederatedRunSettings,)


def run(words: Mapping[str, str]) -> int:
    """Write the run's order, start it and wait for its verdict."""
    settings = build(FederatedRunSettings, words)
    require_flower()
    from medseg.commands.federated_follow import approved_app, follow, tell_missing
    from medseg.federation.conduct import PlanOrder, RunOrder, write_order
    from medseg.federation.federation_file import Place
    from medseg.federation.protection import require_compatible
    from medseg.federation.run_state import RoundPolicy
    from medseg.federation.start import choose_start

    place = Place(settings.folder)
    federation = place.open()
    if unknown := sorted(set(settings.sites) - set(federation.sites)):
        raise SettingsError(f"There are no sites {unknown} in this federation. Known are {sorted(federation.sites)}.")
    plan, table = _given(settings)
    order = RunOrder(
        run=settings.name,
        sites=settings.sites or tuple(federation.sites),
        strategy=settings.strategy,
        settings=settings_for(settings.strategy, _shared(settings), set(words)),
        policy=RoundPolicy(
            min_sites=settings.min_sites,
            allow_missing=settings.allow_missing,
            deadline=settings.deadline,
            grace=settings.grace,
            retries=settings.retries,
        ),
        planning=PlanOrder(channels=settings.channels, preset=_preset(settings), seconds=settings.budget)
        if plan is None
        else None,
        start=None if settings.init_from is None else choose_start(settings.init_from),
    )
    require_enough(order.strategy, len(order.sites))
    require_compatible(order.strategy, order.settings, len(order.sites))
    approved_app(place, federation)
    tell_missing(place, federation, order)
    write_order(place.run(settings.name), order, plan, table)
    say(f"Run '{settings.name}' with {', '.join(order.sites)}: {order.settings.rounds} rounds of {order.strategy}.")
    return follow(place, federation, settings.name)


def _given(settings: FederatedRunSettings) -> tuple[Plan | None, LabelTable]:
    """The plan, if there is one, and the labels."""
    if settings.plan is not None:
        if settings.labels is not None or settings.channels:
            raise SettingsError("plan= has labels and channels already. Leave labels= and channels= out.")
        return Plan.load(Workspace(settings.plan).plan), LabelTable.load(Workspace(settings.plan).labels)
    if settings.labels is None or not settings.channels:
        raise SettingsError(
            "Without plan=WORKSPACE the plan is made from what the sites measure, and for that they have to agree: "
            "write labels=labels.yaml and channels=[NAME,...]."
        )
    load_preset(_preset(settings))  # a preset that is not there is told here, and not by the run
    return None, read_label_table(settings.labels)


def _preset(settings: FederatedRunSettings) -> str:
    return settings.preset or ("federated_dp" if settings.protection_of_patients else "default")


def _shared(settings: FederatedRunSettings) -> RunSettings:
    """What travels with every message."""
    return RunSettings(
        rounds=settings.rounds,
        steps=settings.steps,
        proximal_mu=settings.proximal_mu,
        keep_local=settings.keep_local,
        compression=settings.compression,
        server_rate=settings.server_rate,
        weighting=settings.weighting,
        **settings.protection(),
    )
