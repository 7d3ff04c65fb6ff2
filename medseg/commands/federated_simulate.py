"""``medseg federated simulate``: hospitals in one process, to see what a federation is worth before one is founded.

Without a dataset it makes phantoms of four unlike hospitals and one that takes no part. Every message passes the same
doors as over a network.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medseg.commands.console import Bar, say, table
from medseg.commands.federated_protection import ProtectionWords, show_privacy
from medseg.errors import SettingsError
from medseg.federation.compression import Compression
from medseg.federation.protection import require_compatible
from medseg.federation.run_settings import RunSettings
from medseg.federation.strategies import STRATEGIES, StrategyName, require_enough
from medseg.paths import RUNS
from medseg.run_record import record_run
from medseg.settings import build

if TYPE_CHECKING:
    from medseg.federation.arms import Arms
    from medseg.federation.comparison import Comparison
    from medseg.federation.site import Site

_SECONDS = 60.0
"""The time for which the network is planned: small, so that a simulation is over in a few minutes."""
_MEMORY, _SPEED = 4_000_000_000, 2e10
"""What every simulated site declares to have: the same plan on every computer."""
_USUAL: tuple[StrategyName, ...] = ("fedavg", "fedprox", "personalised")


class SimulateSettings(ProtectionWords):
    """Settings of ``medseg federated simulate``."""

    sites: int = Field(default=4, ge=2, le=100)
    """Hospitals that train; one more takes no part."""
    rounds: PositiveInt = 5
    """Exchanges of weights."""
    strategy: StrategyName | None = None
    """One strategy beside FedAvg; by default FedAvg, FedProx and personalised normalisation."""
    steps: PositiveInt = 30
    """Iterations that each site trains in a round."""
    dataset: Path | None = None
    """Your own data, dealt to the hospitals in unequal parts; by default phantoms of unlike hospitals."""
    workspace: Path = RUNS / "federated"
    """Folder for the hospitals and their results."""
    baselines: bool = True
    """Also train each site alone, their ensemble, and all data in one place."""
    proximal_mu: float = Field(default=0.01, ge=0)
    """FedProx: how strongly a site is held near the common model."""
    keep_local: str = "norm"
    """strategy=personalised: what stays at its site; norm, head, or a regular expression over names of tensors."""
    compression: Compression = "none"
    """How changes are made smaller for the way: none, fp16, or int8 with error feedback."""
    server_rate: PositiveFloat = 1.0
    """Factor on the joined change."""
    weighting: Literal["cases", "uniform"] = "cases"
    """Sites count by their number of cases, or all alike."""
    late: tuple[str, ...] = ()
    """strategy=async: hospitals whose answer comes a round late; by default the last one's."""
    engine: Literal["process", "ray"] = "process"
    """One site after the other in this process, or all at once as Ray tasks (pip install medseg[cluster])."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where sites train."""
    init_from: Path | None = None
    """Every model begins with the weights of this bundle or workspace, as far as they fit, instead of random ones."""
    preset: str | None = None
    """How the network is planned; by default federated_dp (few parameters) where patients are protected."""
    seed: int = Field(default=1, ge=0)
    """Another seed gives other patients and other first weights."""

    def run_settings(self) -> RunSettings:
        """What sites and coordinator agree on, protection aside."""
        return RunSettings(
            rounds=self.rounds,
            steps=self.steps,
            compression=self.compression,
            server_rate=self.server_rate,
            weighting=self.weighting,
        )


SETTINGS = (SimulateSettings,)


def run(words: Mapping[str, str]) -> None:
    """Simulate, and show what every model is worth at every hospital."""
    settings = build(SimulateSettings, words)
    started = time.monotonic()
    strategies = _strategies(settings)
    from medseg.federation.arms import compare_arms
    from medseg.federation.picture import draw_comparison

    with Bar() as bar:
        sites, left_out, pooled = _hospitals(settings, bar)
        arms = _arms(settings, sites, left_out, pooled)
        say(_about(arms))
        baselines = ("local", "ensemble", "centralised") if settings.baselines else ()
        comparison, courses = compare_arms(arms, strategies, baselines, bar)
    folder = settings.workspace
    comparison.save(folder / "comparison.json")
    draw_comparison(folder / "comparison.png", comparison, courses)
    sources = {name: "words" if name in words else "default" for name in SimulateSettings.model_fields}
    facts = {"seconds": round(time.monotonic() - started, 1)}
    record_run(folder / "run.json", "federated simulate", words, settings.model_dump(mode="json"), sources, facts)
    _show(comparison, folder)
    if settings.is_protected:
        show_privacy(sites, folder / "runs")


def _strategies(settings: SimulateSettings) -> tuple[StrategyName, ...]:
    if settings.strategy is None and not settings.is_protected:
        return _USUAL
    strategy = settings.strategy or "fedavg"
    require_enough(strategy, settings.sites)
    if settings.late and not STRATEGIES[strategy].takes_late:
        raise SettingsError(f"late= is for strategy=async; strategy={strategy} waits for every hospital.")
    if settings.is_protected:
        shared = settings.run_settings().model_copy(update=settings.protection())
        require_compatible(strategy, shared, settings.sites)
        return (strategy,)
    return ("fedavg",) if strategy == "fedavg" else ("fedavg", strategy)


def _hospitals(settings: SimulateSettings, bar: Bar) -> tuple[list[Site], Site, Site]:
    """(those that train, the one that takes no part, all training data in one place)."""
    from medseg.cases.formats import read_dataset
    from medseg.federation.arms import POOLED
    from medseg.federation.hospitals import LEFT_OUT, pool, split_dataset, write_hospitals
    from medseg.federation.policy import SitePolicy
    from medseg.federation.secure_site import exchange_keys
    from medseg.federation.site import Site
    from medseg.federation.site_privacy import forget_protection
    from medseg.planning.plan import Machine

    data, folder = settings.workspace / "hospitals", settings.workspace / "sites"
    if settings.dataset is None:
        datasets = write_hospitals(data, settings.sites, settings.seed, bar)
    else:
        datasets = split_dataset(read_dataset(settings.dataset), data, settings.sites, settings.seed)
    names = [name for name in datasets if name != LEFT_OUT]
    datasets[POOLED] = pool(datasets, names, data / POOLED / "dataset.yaml")
    machine = Machine(device="cpu", memory_bytes=_MEMORY, flops_per_second=_SPEED)
    looking, training = SitePolicy(actions=("prepare", "evaluate")), SitePolicy(epsilon_budget=settings.epsilon)
    made = {
        name: Site(name, path, folder / name, looking if name == LEFT_OUT else training, settings.device, machine)
        for name, path in datasets.items()
    }
    for site in made.values():  # what an earlier simulation remembered is no part of this one
        shutil.rmtree(site.folder / "runs", ignore_errors=True)
        forget_protection(site.folder)
    if settings.is_protected:
        exchange_keys({name: made[name].folder for name in names})
    return [made[name] for name in names], made[LEFT_OUT], made[POOLED]


def _arms(settings: SimulateSettings, sites: list[Site], left_out: Site, pooled: Site) -> Arms:
    from medseg.cases.formats import read_dataset
    from medseg.federation.arms import Arms
    from medseg.federation.coordinator import plan_sites
    from medseg.federation.engines import engine_named
    from medseg.federation.start import choose_start, first_weights
    from medseg.planning.presets import load_preset

    late = dict.fromkeys(settings.late or sorted(site.name for site in sites)[-1:], 1)
    unknown = sorted(set(settings.late) - {site.name for site in sites})
    if unknown:
        raise SettingsError(f"late= names {', '.join(unknown)}; there are {', '.join(site.name for site in sites)}.")
    connect = engine_named(settings.engine)
    dataset = read_dataset(sites[0].dataset)
    names = [site.name for site in sites]
    preset = settings.preset or ("federated_dp" if settings.protection_of_patients else "default")
    planned, fingerprint = plan_sites(
        connect(sites), names, "plan", dataset.channels, dataset.labels, load_preset(preset), _SECONDS, 3600.0
    )
    fingerprint.save(settings.workspace / "fingerprint.json")
    # A short training has no time to learn mirrored patients as well.
    training = planned.plan.training.model_copy(update={"mirror_axes": (), "seed": settings.seed})
    plan = planned.plan.model_copy(update={"training": training})
    start = settings.init_from
    return Arms(
        sites=sites,
        left_out=left_out,
        pooled=pooled,
        plan=plan,
        table=dataset.labels,
        folder=settings.workspace / "runs",
        settings=settings.run_settings(),
        protection=settings.protection() if settings.is_protected else {},
        own={"fedprox": {"proximal_mu": settings.proximal_mu}, "personalised": {"keep_local": settings.keep_local}},
        late=late,
        connect=connect,
        start=None if start is None else first_weights(plan, dataset.labels, choose_start(start)),
    )


def _about(arms: Arms) -> str:
    name, configuration = arms.plan.configuration(None)
    patch = "x".join(map(str, configuration.patch_size))
    return (
        f"One plan from {len(arms.sites)} sites' histograms: {name}, patches of {patch} at "
        f"{'x'.join(f'{s:g}' for s in configuration.spacing)} mm, features {list(configuration.network.features)}."
    )


def _show(comparison: Comparison, folder: Path) -> None:
    from medseg.federation.comparison import cost_rows, matrix_rows

    table("Dice of held-out cases [95 % interval]", *matrix_rows(comparison))
    table("Over sites, and what it cost", *cost_rows(comparison))
    say(f"{comparison.budget}.\nPicture: {folder / 'comparison.png'}, numbers: {folder / 'comparison.json'}")
    say(f"Next: medseg predict model={folder / 'runs' / 'fedavg'} input=DIR output=DIR")
