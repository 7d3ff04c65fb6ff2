"""The arms of a comparison: each site alone, their ensemble, federated strategies, and all data in one place.

Knows nothing of where the sites' data come from. Every arm begins with the same weights and gives a network the same
number of patches of every site: local models train ``rounds`` x ``steps`` iterations, and so does each site in a
federation; the centralised model trains as many as all sites together, on all their cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.cases.labels import LabelTable
from medseg.errors import SiteError
from medseg.federation.comparison import Cell, Comparison, Row, cells_of, course_of, local_row, row_of_run
from medseg.federation.coordinator import begin_run, evaluate_at, final_weights, prepare_sites, write_model
from medseg.federation.in_process import InProcess, Late
from medseg.federation.messages import Transport
from medseg.federation.rounds import run_rounds
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy, RunState
from medseg.federation.site import Site
from medseg.federation.strategies import STRATEGIES, StrategyName, settings_for
from medseg.planning.plan import Plan
from medseg.progress import Progress, Silent

Baseline = Literal["local", "ensemble", "centralised"]
_DEADLINE_S = 24 * 3600.0
POOLED = "pooled"
"""The name of the site that holds all sites' cases."""


@dataclass(frozen=True)
class Arms:
    """What all arms of a comparison share."""

    sites: Sequence[Site]
    """Those that train."""
    left_out: Site | None
    """Evaluates, and trains nothing."""
    pooled: Site | None
    """Holds the cases of all that train; None where nobody may put them in one place."""
    plan: Plan
    table: LabelTable
    folder: Path
    settings: RunSettings
    protection: Mapping[str, Any] = field(default_factory=dict)
    """Settings that protect patients or hospitals, for the strategies; FedAvg is then trained without them as well."""
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By strategy the settings that replace those it brings."""
    late: Mapping[str, int] = field(default_factory=dict)
    """Sites that answer a strategy that waits for nobody so many askings late."""
    policy: RoundPolicy = field(default_factory=lambda: RoundPolicy(deadline=_DEADLINE_S, grace=0))
    connect: Callable[[Sequence[Site]], Transport] = InProcess
    start: Mapping[str, np.ndarray] | None = None
    """Weights that every arm begins with instead of random ones."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sites that train, in order."""
        return tuple(sorted(site.name for site in self.sites))

    def run(self, arm: str, sites: Sequence[Site], strategy: StrategyName, settings: RunSettings) -> RunState:
        """Train one model over these sites, and write it where all of it may be in one place."""
        transport, folder = self.connect(sites), self.folder / arm
        if STRATEGIES[strategy].takes_late:
            transport = Late(transport, self.late)
        names = [site.name for site in sites]
        begun = self.start
        begin_run(transport, folder, arm, self.plan, self.table, names, strategy, settings, self.policy, begun)
        state = run_rounds(transport, folder)
        if state.status == "paused":
            raise SiteError(f"The simulation of {arm} paused: {state.reason}. See errors.log in the sites' folders.")
        write_model(folder)
        return state

    def cells(self, state: RunState, members: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Cell]:
        """A model, or the average of several, at every site."""
        everyone = [*self.sites, *([self.left_out] if self.left_out else [])]
        transport = self.connect(everyone)
        names = [site.name for site in everyone]
        plan = Plan.load(self.folder / state.run / "plan.yaml")
        prepare_sites(transport, names, state.run, plan, self.table, _DEADLINE_S)
        return cells_of(evaluate_at(transport, names, state, members, _DEADLINE_S))


def compare_arms(
    arms: Arms,
    strategies: Sequence[StrategyName],
    baselines: Sequence[Baseline] = ("local", "ensemble", "centralised"),
    progress: Progress | None = None,
) -> tuple[Comparison, dict[str, list[float | None]]]:
    """Train and evaluate every arm; and for each strategy the sites' mean Dice after 0, 1, 2, ... rounds.

    Raises SiteError where an arm can't be trained.
    """
    progress = progress or Silent()
    left_out = arms.left_out.name if arms.left_out else None
    turns = _turns(arms, strategies)
    total = len(turns) + ("centralised" in baselines)
    total += len(arms.sites) if {"local", "ensemble"} & set(baselines) else 0
    progress.start("Training", total)
    local: dict[str, Row] = {}
    rows: list[Row] = []
    courses: dict[str, list[float | None]] = {}
    if {"local", "ensemble"} & set(baselines):
        members, state = [], None
        for site in sorted(arms.sites, key=lambda site: site.name):
            state = arms.run(f"local-{site.name}", [site], "fedavg", arms.settings)
            members.append(final_weights(arms.folder / state.run))
            local[site.name] = row_of_run(f"local {site.name}", state, arms.cells(state, members[-1:]))
            progress.advance(1, arm=f"local {site.name}")
        if "local" in baselines:
            rows.append(local_row(local, left_out))
        if "ensemble" in baselines and state is not None:
            rows.append(Row(model="ensemble", cells=arms.cells(state, members)))
    for arm, strategy, settings in turns:
        own = arms.own.get(strategy, {})
        asked = settings.model_copy(update=dict(own))
        state = arms.run(arm, arms.sites, strategy, settings_for(strategy, asked, own))
        cells = arms.cells(state, [final_weights(arms.folder / arm)])
        rows.append(row_of_run(arm, state, cells))
        courses[arm] = course_of(state, cells)
        progress.advance(1, arm=arm)
    if "centralised" in baselines and arms.pooled is not None:
        more = arms.settings.model_copy(update={"steps": arms.settings.steps * len(arms.sites)})
        state = arms.run("centralised", [arms.pooled], "fedavg", more)
        cells = arms.cells(state, [final_weights(arms.folder / state.run)])
        # One site alone exchanges nothing.
        row = row_of_run("centralised", state, cells)
        rows.append(row.model_copy(update={"bytes_up": 0, "bytes_down": 0, "rounds_to_95": None}))
        progress.advance(1, arm="centralised")
    progress.finish()
    comparison = Comparison(
        sites=arms.names,
        left_out=left_out,
        budget=f"{arms.settings.rounds} rounds of {arms.settings.steps} iterations at each site; centralised as many "
        "as all sites together",
        rows=tuple(rows),
        local=tuple(local.values()),
    )
    return comparison, courses


def _turns(arms: Arms, strategies: Sequence[StrategyName]) -> list[tuple[str, StrategyName, RunSettings]]:
    """Name, strategy and settings of each federated arm."""
    if not arms.protection:
        return [(strategy, strategy, arms.settings) for strategy in strategies]
    protected = RunSettings.model_validate({**arms.settings.model_dump(), **arms.protection})
    kind = protected.privacy.mode if protected.privacy.mode != "none" else "masked"
    return [("fedavg", "fedavg", arms.settings), *((f"{name}-{kind}", name, protected) for name in strategies)]
