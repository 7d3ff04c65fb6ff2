"""What the coordinator does before the first round and after the last: prepare the sites, write the model, compare.

Knows no images. The plan and the first weights are made here; every site gets the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.errors import PlanError, SiteError
from medseg.federation.messages import JSON, Reply, Request, Transport, hash_arrays
from medseg.federation.planning import PooledFingerprint, declared_machine, pool_fingerprints, smallest_machine
from medseg.federation.protection import require_compatible, settled_privacy
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy, RunState
from medseg.federation.start import first_weights
from medseg.federation.strategies import StrategyName, require_enough
from medseg.inference.model import preparation_of
from medseg.networks.weights import save_weights
from medseg.paths import Workspace
from medseg.planning.plan import Machine, OptimizerPlan, Plan
from medseg.planning.presets import Preset
from medseg.planning.rules import Planned, plan_dataset

Arrays = Mapping[str, np.ndarray]

_PLAIN_RATE = 0.1
"""Of plain gradient descent, for SCAFFOLD."""


def federated_plan(plan: Plan, settings: RunSettings) -> Plan:
    """The Plan with what a federated run needs: SCAFFOLD's controls are mean gradients of plain descent.

    Raises PlanError for what can't be federated.
    """
    if plan.configuration(None)[1].previous is not None:
        raise PlanError("A cascade can't be trained in a federation yet. Choose 3d_fullres as default_configuration.")
    optimizer = plan.training.optimizer
    if not settings.control or (optimizer.name == "sgd" and not optimizer.momentum):
        return plan
    plain = OptimizerPlan(name="sgd", learning_rate=_PLAIN_RATE, momentum=0.0)
    return plan.model_copy(update={"training": plan.training.model_copy(update={"optimizer": plain})})


def plan_sites(
    transport: Transport,
    sites: Sequence[str],
    run: str,
    channels: Sequence[str],
    table: LabelTable,
    preset: Preset,
    seconds: float | None,
    deadline_s: float,
    machine: Machine | None = None,
) -> tuple[Planned, PooledFingerprint]:
    """The Plan for all sites' cases from their histograms, small enough for the smallest machine that they declare.

    ``machine`` is the one to plan for where no site declares any; ``seconds`` is the time for training. Raises
    SiteError naming each site that can't take part, and its code; PlanError.
    """
    agreed: dict[str, JSON] = {
        "orientation": preset.orientation,
        "channels": list(channels),
        "labels": list(table.names),
        "targets": list(table.target_names),
    }
    replies = transport.exchange(dict.fromkeys(sites, Request("fingerprint", run, 0, "", agreed)), deadline_s)
    _require_all(replies, sites)
    cases = sum(_count(replies[site].header.get("cases")) for site in sites)
    pooled = pool_fingerprints(
        run, preset.orientation, channels, table, cases, [replies[site].arrays for site in sorted(sites)]
    )
    declared = [found for site in sorted(sites) if (found := declared_machine(replies[site].header)) is not None]
    smallest = smallest_machine(declared) if declared else machine or Machine(device="any")
    return plan_dataset(pooled, table, preset, smallest, seconds), pooled


def prepare_sites(
    transport: Transport, sites: Sequence[str], run: str, plan: Plan, table: LabelTable, deadline_s: float
) -> dict[str, Reply]:
    """Give every site the Plan; their Replies. Raises SiteError naming each site that can't take part, and its code."""
    header = {"plan": plan.content(), "labels": list(table.names), "targets": list(table.target_names)}
    request = Request("prepare", run, 0, plan.content_hash(), header)
    replies = transport.exchange(dict.fromkeys(sites, request), deadline_s)
    _require_all(replies, sites)
    return replies


def begin_run(
    transport: Transport,
    folder: Path,
    run: str,
    plan: Plan,
    table: LabelTable,
    sites: Sequence[str],
    strategy: StrategyName = "fedavg",
    settings: RunSettings | None = None,
    policy: RoundPolicy | None = None,
    weights: Arrays | None = None,
) -> RunState:
    """Prepare the sites and write the state before the first round.

    ``weights`` are those to begin with instead of random ones, from public data or not: the certificate names them and
    says that epsilon does not cover theirs. Raises SiteError, SettingsError or PlanError.
    """
    settings, policy = settings or RunSettings(), policy or RoundPolicy()
    require_enough(strategy, len(sites))
    require_compatible(strategy, settings, len(sites))
    plan = federated_plan(plan, settings)
    begun = weights if weights is not None else first_weights(plan, table)
    replies = prepare_sites(transport, sites, run, plan, table, policy.deadline)
    patients = {site: _count(replies[site].header.get("patients")) for site in sorted(sites)}
    settings = settled_privacy(settings, patients)
    shared = {name: np.asarray(array) for name, array in begun.items() if not settings.is_kept(name)}
    tensors = {f"weights.{name}": array for name, array in shared.items()}
    if settings.control:
        tensors |= {f"control.{name}": np.zeros_like(array) for name, array in shared.items()}
    plan.save(Workspace(folder).plan)
    table.save(Workspace(folder).labels)
    return RunState(
        run=run,
        plan_sha256=plan.content_hash(),
        strategy=strategy,
        settings=settings,
        policy=policy,
        sites=tuple(sorted(sites)),
        cases={site: _count(replies[site].header.get("cases")) for site in sorted(sites)},
        patients=patients,
        start="" if weights is None else hash_arrays(weights),
    ).saved(folder, tensors)


def final_weights(folder: Path) -> dict[str, np.ndarray]:
    """The weights after the last round that is done."""
    return {
        name.removeprefix("weights."): array
        for name, array in RunState.found(folder)[1].items()
        if name.startswith("weights.")
    }


def write_model(folder: Path) -> Path | None:
    """The run's model as every command takes it (``model=FOLDER``); None where part of it stays at the sites."""
    state, _ = RunState.found(folder)
    if state.settings.keep_local:
        return None
    workspace = Workspace(folder)
    plan, table = Plan.load(workspace.plan), LabelTable.load(workspace.labels)
    name, configuration = plan.configuration(None)
    training = plan.training
    description = {
        "configuration_name": name,
        "configuration": configuration.model_dump(mode="json", exclude_none=True),
        "channels": len(plan.channels),
        "classes": table.outputs,
        "activation": table.activation,
        "plan_hash": state.plan_sha256,
        "preparation": preparation_of(plan),
        "iterations": state.round * state.settings.steps,
        "fold": "full",
        "mirror_axes": list(training.mirror_axes if training.augmentation.mirror else ()),
        "federated": {"run": state.run, "strategy": state.strategy, "sites": len(state.sites), "status": state.status},
    }
    path = workspace.weights(name, "full")
    tensors: dict[str, Tensor] = {n: torch.from_numpy(array) for n, array in final_weights(folder).items()}
    save_weights(path, tensors, description)
    return path


def evaluate_at(
    transport: Transport,
    sites: Sequence[str],
    state: RunState,
    members: Sequence[Arrays],
    deadline_s: float,
) -> dict[str, Reply]:
    """One network, or the average of several, scored on the held-out cases of each site."""
    header = {"settings": state.settings.model_dump(mode="json"), "members": len(members) if len(members) > 1 else 0}
    prefixes = [str(number) for number in range(len(members))] if len(members) > 1 else ["weights"]
    arrays = {
        f"{prefix}.{name}": array
        for prefix, member in zip(prefixes, members, strict=True)
        for name, array in member.items()
    }
    request = Request("evaluate", state.run, state.round, state.plan_sha256, header, arrays)
    return transport.exchange(dict.fromkeys(sites, request), deadline_s)


def _require_all(replies: Mapping[str, Reply], sites: Sequence[str]) -> None:
    wrong = {site: replies[site].error if site in replies else "no-answer" for site in sites}
    named = ", ".join(f"{site} ({code})" for site, code in sorted(wrong.items()) if code is not None)
    if named:
        raise SiteError(
            f"Not every site can take part: {named}. The errors.log in its own folder says more; try "
            "again when it is mended, or leave the site out."
        )


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SiteError("A site declared no number of cases to train on. Ask it to update medseg.")
    return value
