"""A run from its order to its result: prepare the sites, do the rounds, write the model, score it at every site.

Knows no engine: a Transport carries the messages. The order is written once by ``medseg federated run`` and never
changed; begun again after a kill, a run goes on from the last whole round and ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from medseg.cases.labels import LabelTable
from medseg.documents import Document, Record
from medseg.errors import MedsegError, SiteError
from medseg.federation.comparison import Comparison, cells_of, row_of_run
from medseg.federation.coordinator import begin_run, evaluate_at, final_weights, plan_sites, write_model
from medseg.federation.messages import Transport, hash_arrays
from medseg.federation.rounds import run_rounds
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy, RunState
from medseg.federation.site_file import Slug
from medseg.federation.start import StartOrder, first_weights
from medseg.federation.strategies import StrategyName
from medseg.files import hash_file, locked
from medseg.paths import Workspace
from medseg.planning.plan import Plan
from medseg.planning.presets import load_preset
from medseg.progress import Progress

_LOCK = ".lock"


class PlanOrder(Record):
    """How the sites' common Plan is made from their histograms, where none was given."""

    channels: tuple[str, ...] = Field(min_length=1)
    """Names in order, as the sites have agreed on."""
    preset: str
    seconds: PositiveFloat
    """The time of training at one site for which the network is sized."""


class RunOrder(Document):
    """``order.yaml``: what a run is to do."""

    kind: ClassVar[str] = "federated-order"

    run: Slug
    sites: tuple[Slug, ...] = Field(min_length=1)
    strategy: StrategyName
    settings: RunSettings
    policy: RoundPolicy
    planning: PlanOrder | None = None
    """None where the Plan was given."""
    start: StartOrder | None = None
    """A trained model to begin with; None for random weights."""


class RunResult(Document):
    """``result.json``: how a run ended, or why it could not go on."""

    kind: ClassVar[str] = "federated-result"

    status: Literal["completed", "completed-with-gaps", "paused", "failed"]
    rounds: int
    """That are done."""
    reason: str = ""
    """Why it is paused or failed."""
    weights: str = ""
    """SHA-256 over names, shapes and bytes of the weights after the last round."""
    model: str = ""
    """File of the network, in the run's folder; none where part of it stays at the sites."""
    model_sha256: str = ""


def order_place(folder: Path) -> Workspace:
    """Where the plan and the labels of an order lie, apart from what the run itself writes."""
    return Workspace(folder / "order")


def order_file(folder: Path) -> Path:
    """The order of the run in a folder."""
    return folder / "order.yaml"


def result_file(folder: Path) -> Path:
    """The result of the run in a folder."""
    return folder / "result.json"


def comparison_file(folder: Path) -> Path:
    """How good the model of the run in a folder is at each site."""
    return folder / "comparison.json"


def write_order(folder: Path, order: RunOrder, plan: Plan | None, table: LabelTable) -> None:
    """Write down what a run is to do. Raises MedsegError where the run is there already."""
    if order_file(folder).exists():
        raise MedsegError(
            f"The run '{order.run}' is there already. Go on with 'medseg federated resume', or name another."
        )
    if plan is not None:
        plan.save(order_place(folder).plan)
    table.save(order_place(folder).labels)
    order.save(order_file(folder))


def conduct(transport: Transport, folder: Path, progress: Progress | None = None) -> RunResult:
    """Do what is left of the run in ``folder``; never raises for what a run can meet, but writes it as its result."""
    with _alone(folder):
        result_file(folder).unlink(missing_ok=True)
        try:
            result = _conduct(transport, folder, progress)
        except MedsegError as error:
            result = RunResult(status="failed", rounds=_rounds_done(folder), reason=str(error))
        result.save(result_file(folder))
    return result


def _conduct(transport: Transport, folder: Path, progress: Progress | None) -> RunResult:
    order = RunOrder.load(order_file(folder))
    if not (folder / "run.json").exists():
        table = LabelTable.load(order_place(folder).labels)
        plan = _plan(transport, folder, order, table)
        weights = None if order.start is None else first_weights(plan, table, order.start)
        settings, policy = order.settings, order.policy
        begin_run(transport, folder, order.run, plan, table, order.sites, order.strategy, settings, policy, weights)
    state = run_rounds(transport, folder, progress)
    if state.status == "paused":
        return RunResult(status="paused", rounds=state.round, reason=state.reason)
    if state.status == "running":
        raise SiteError("the rounds ended without an end")
    model = write_model(folder)
    _score(transport, folder, state)
    return RunResult(
        status=state.status,
        rounds=state.round,
        weights=hash_arrays(final_weights(folder)),
        model=str(model.relative_to(folder)) if model else "",
        model_sha256=hash_file(model) if model else "",
    )


def _score(transport: Transport, folder: Path, state: RunState) -> None:
    """Write how good the model is on each site's held-out cases, as far as the sites tell."""
    replies = evaluate_at(transport, state.sites, state, [final_weights(folder)], state.policy.deadline)
    Comparison(
        sites=state.sites,
        left_out=None,
        budget=f"{state.round} rounds of {state.settings.steps} iterations at each site",
        rows=(row_of_run(state.strategy, state, cells_of(replies)),),
    ).save(comparison_file(folder))


def _plan(transport: Transport, folder: Path, order: RunOrder, table: LabelTable) -> Plan:
    """The given Plan, or the one that the sites' histograms lead to: made once, then read."""
    place, asked = order_place(folder), order.planning
    if asked is not None and not place.plan.exists():
        preset = load_preset(asked.preset)
        planned, pooled = plan_sites(
            transport, order.sites, order.run, asked.channels, table, preset, asked.seconds, order.policy.deadline
        )
        pooled.save(place.fingerprint)
        planned.plan.save(place.plan)
    return Plan.load(place.plan)


def _rounds_done(folder: Path) -> int:
    try:
        return RunState.load(folder / "run.json").round
    except MedsegError:
        return 0


def is_under_way(folder: Path) -> bool:
    """Whether a process is doing the run in ``folder`` now."""
    try:
        with locked(folder / _LOCK, wait=False):
            return False
    except BlockingIOError:
        return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A run is done by one process at a time: one that was thought dead must not write beside its successor."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / _LOCK, wait=False))
        except BlockingIOError:
            raise MedsegError(f"Another process is doing the run in {folder}. Wait for it, or stop it.") from None
        yield
