"""A trained U-Net++ cut down to its first levels: the smaller networks, and a bundle of them.

Knows nothing of how good they are; ``medseg prune`` measures that. Paper: Zhou et al. 2018 (pruning at inference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.errors import PlanError
from medseg.inference.bundle import bundle_written_whole, weights_name
from medseg.inference.model import Fold, Model, Networks, described_weights
from medseg.networks.build import build_network
from medseg.networks.unet_plus_plus import prune
from medseg.networks.weights import load_weights, save_weights
from medseg.planning.plan import ConfigurationPlan, NetworkPlan


def levels_of(network: NetworkPlan) -> range:
    """The levels that a network can be cut down to, the last of which is all of it.

    Raises PlanError for another network than a U-Net++ trained with deep supervision.
    """
    if network.name != "unetpp" or not network.deep_supervision:
        what = f"a '{network.name}'" if network.name != "unetpp" else "one without deep supervision"
        raise PlanError(
            f"Only a U-Net++ with a head on every level can be cut down, but this is {what}. Train one with "
            "'medseg plan network=unetpp'."
        )
    return range(1, len(network.features))


def cut_down(networks: Networks, level: int) -> Networks:
    """The same members with their finest ``level`` + 1 levels alone. Raises PlanError where that can't be."""
    members, plan = [], networks.configuration.network
    for network in networks.networks:
        plan, state = prune(networks.configuration.network, network.state_dict(), level)
        dimensions, channels = networks.configuration.dimensions, len(networks.plan.channels)
        smaller = build_network(plan, dimensions, channels, networks.labels.outputs)
        smaller.load_state_dict(state)
        members.append(smaller.eval().requires_grad_(False).to(next(network.parameters()).device))
    return replace(networks, networks=tuple(members), configuration=_with(networks.configuration, plan))


def write_pruned(
    model: Model, configuration: str, folds: Sequence[Fold], level: int, output: Path, metrics: Mapping[str, Any]
) -> None:
    """A bundle of the chosen folds, cut down, whole or not at all; what was selected or calibrated stays behind.

    Raises PlanError where a fold can't be cut so, CheckpointError when ``output`` holds anything but a bundle.
    """
    cut: dict[Fold, tuple[Any, dict[str, Any]]] = {}
    planned = model.plan.configurations[configuration]
    for fold in folds:
        path = model.weights[configuration][fold]
        state, about = load_weights(path)
        trained = described_weights(path)[1].configuration
        network, kept = prune(trained.network, state, level)
        planned = _with(trained, network)
        cut[fold] = kept, {**about, "configuration": planned.model_dump(mode="json", exclude_none=True)}
    plan = model.plan.model_copy(
        update={"configurations": {configuration: planned}, "default_configuration": configuration}
    )
    with bundle_written_whole(output, plan, metrics) as folder:
        plan.save(folder / "plan.yaml")
        model.labels.save(folder / "labels.yaml")
        for fold, (kept, about) in cut.items():
            (folder / configuration).mkdir(exist_ok=True)
            save_weights(folder / weights_name(configuration, fold), kept, about)


def _with(configuration: ConfigurationPlan, network: NetworkPlan) -> ConfigurationPlan:
    return configuration.model_copy(update={"network": network})
