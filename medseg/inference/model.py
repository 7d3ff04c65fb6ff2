"""A trained Model: its Plan, its labels, and the networks of its folds, built from what the weights say of themselves.

Knows nothing of how a bundle or a workspace lies on the disk; that is ``medseg.inference.bundle``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.errors import CheckpointError, SettingsError
from medseg.files import hash_content, hash_file
from medseg.inference.components import ComponentRule
from medseg.inference.onnx import OnnxNetwork, load_graph, to_onnx
from medseg.inference.selection import Selection
from medseg.networks.build import build_network
from medseg.networks.weights import load_weights
from medseg.planning.plan import ConfigurationPlan, Plan

Engine = Literal["auto", "torch", "onnx"]
"""What runs the networks; auto: torch, or ONNX Runtime where the model was exported for it."""
Fold = int | str
"""A fold's number, or ``full`` where every Case was trained on."""


class WeightsDescription(Record):
    """What a weights file says of the training it came from; further keys are left alone."""

    model_config = ConfigDict(extra="ignore")

    configuration_name: str
    configuration: ConfigurationPlan
    """With whatever the training overrode, such as patch_size."""
    channels: int
    classes: int
    """Output channels."""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    mirror_axes: tuple[int, ...] = ()
    restores: tuple[str, ...] = ()
    """Channels that it learned to restore (``medseg pretrain``), instead of finding structures."""
    restored_images: Literal["dataset", "folder", "none"] = "none"
    """Where the images came from that it restored."""
    preparation: dict[str, Any] | None = None
    """``preparation_of`` the Plan that the training used."""


@dataclass(frozen=True)
class Model:
    """A model on disk: a bundle or a workspace."""

    folder: Path
    plan: Plan
    labels: LabelTable
    weights: Mapping[str, Mapping[Fold, Path]]
    """Trained folds of each configuration that has any."""
    selection: Selection | None = None
    """What to predict with by default, where ``medseg select`` has chosen."""
    calibration: Path | None = None
    """What ``medseg calibrate`` has learned, where it was run; ``medseg.uncertainty`` reads it."""
    familiarity: Path | None = None
    """What it has learned of the images themselves."""
    snapshots: Mapping[str, Mapping[Fold, tuple[Path, ...]]] = field(default_factory=dict)
    """Earlier networks of a fold's training, where it kept any."""

    def choose(
        self, configuration: str | None = None, folds: Sequence[Fold] | None = None
    ) -> tuple[str, tuple[Fold, ...]]:
        """The asked (or the plan's, or the only trained) configuration, and the asked (or all its numbered) folds.

        Raises CheckpointError that names what there is.
        """
        name = configuration or self.plan.default_configuration
        if configuration is None and name not in self.weights and len(self.weights) == 1:
            (name,) = self.weights
        trained = self.weights.get(name)
        if not trained:
            there = ", ".join(f"{known} (folds {_listed(folds)})" for known, folds in self.weights.items()) or "nothing"
            raise CheckpointError(
                f"{self.folder} holds no trained fold of '{name}'; trained is: {there}. Train it with 'medseg train "
                f"configuration={name}', or choose another with configuration=NAME."
            )
        numbered = [fold for fold in trained if isinstance(fold, int)]
        chosen = tuple(dict.fromkeys(folds)) if folds else tuple(numbered or trained)
        missing = [fold for fold in chosen if fold not in trained]
        if missing:
            raise CheckpointError(
                f"{self.folder} has no trained fold {_listed(missing)} of '{name}', only {_listed(trained)}. Train it, "
                "or leave it out of folds=."
            )
        return name, chosen

    def load(
        self,
        configuration: str | None = None,
        folds: Sequence[Fold] | None = None,
        device: torch.device | str = "cpu",
        engine: Engine = "auto",
    ) -> Networks:
        """Build the networks of the chosen folds once, on ``device`` and in eval mode.

        Without ``configuration`` those that ``medseg select`` has chosen, if it has. Raises CheckpointError for damaged
        weights, for folds that do not fit the Plan or one another, and for a selection made before another training;
        SettingsError for an engine that the files or the device do not allow.
        """
        selection = self.selection
        if selection is None or configuration not in (None, *selection.chosen):
            return self._load(configuration, folds, device, engine)
        if configuration is not None and len(selection.chosen) > 1:
            return self._load(configuration, folds, device, engine)
        members = [
            self._load(name, selection.folds[name] if folds is None else folds, device, engine)
            for name in selection.chosen
        ]
        for member in members:
            if folds is None and member.identity != selection.identities[member.name]:
                raise CheckpointError(
                    f"{self.folder}: '{member.name}' has been trained anew since 'medseg select' chose it. Run 'medseg "
                    "select' again, or delete selection.json."
                )
        first, *others = members
        identity = hash_content([member.identity for member in members]) if others else first.identity
        return replace(first, beside=tuple(others), rules=selection.rules, identity=identity)

    def with_snapshots(self, networks: Networks) -> Networks:
        """The same with the snapshots of their folds beside them. Raises CheckpointError where a fold has none."""
        kept = self.snapshots.get(networks.name, {})
        without = [fold for fold in networks.folds if not kept.get(fold)]
        if without:
            raise CheckpointError(
                f"{self.folder} holds no snapshots of '{networks.name}', fold(s) {_listed(without)}. Train with "
                "snapshots=5, or choose another uncertainty=."
            )
        device = next(networks.networks[0].parameters()).device
        snapshots = [read_network(path)[0].to(device) for fold in networks.folds for path in kept[fold]]
        beside = tuple(self.with_snapshots(other) for other in networks.beside)
        return replace(networks, snapshots=tuple(snapshots), beside=beside)

    def _load(
        self, configuration: str | None, folds: Sequence[Fold] | None, device: torch.device | str, engine: Engine
    ) -> Networks:
        name, chosen = self.choose(configuration, folds)
        paths = [self.weights[name][fold] for fold in chosen]
        loaded = [(path, *_opened(path)) for path in paths]
        first = loaded[0][2]
        for path, _, description in loaded:
            self._require_fitting(path, name, description, first)
        run_by = partial(_run_by, engine, torch.device(device))
        previous = self._previous(name, first.configuration.previous, chosen, bool(folds), device, engine)
        own = self.identity(name, chosen)
        return Networks(
            networks=tuple(run_by(path, make(), description) for path, make, description in loaded),
            name=name,
            configuration=first.configuration,
            folds=chosen,
            plan=self.plan,
            labels=self.labels,
            mirror_axes=tuple(sorted(set(first.mirror_axes).intersection(*(d.mirror_axes for _, _, d in loaded)))),
            identity=own if previous is None else hash_content([own, previous.identity]),
            previous=previous,
        )

    def _previous(
        self,
        name: str,
        previous: str | None,
        chosen: Sequence[Fold],
        asked: bool,
        device: torch.device | str,
        engine: Engine,
    ) -> Networks | None:
        """The networks before a cascade's ``chosen`` folds: all numbered ones, unless folds were asked for.

        Then they are the same folds, so that a Case that these held out stays held out. Before a cascade trained on
        every Case stands one that was, if there is one.
        """
        if previous is None:
            return None
        trained = self.weights.get(previous)
        if not trained:
            raise CheckpointError(
                f"{self.folder} holds the cascade '{name}', but not '{previous}', whose labels it needs. Train it with "
                f"'medseg train configuration={previous}', or bundle the model anew."
            )
        if "full" in chosen:
            return self._load(previous, ["full"] if "full" in trained else None, device, engine)
        return self._load(previous, chosen if asked else None, device, engine)

    def identity(self, configuration: str, folds: Sequence[Fold]) -> str:
        """Hash of the weights and of the preparation: equal models have equal ones, wherever they lie."""
        files = [hash_file(self.weights[configuration][fold]) for fold in folds]
        return hash_content({"files": files, "plan": preparation_of(self.plan)})

    def _require_fitting(self, path: Path, name: str, found: WeightsDescription, first: WeightsDescription) -> None:
        def refuse(what: str, expected: object, got: object) -> CheckpointError:
            return CheckpointError(
                f"{path} was trained with {what} {got}, but {expected} is expected here: the file, plan.yaml and "
                "labels.yaml do not belong together. Use the plan it was trained with, or train it again."
            )

        if found.restores:
            raise CheckpointError(
                f"{path} has learned to restore images and finds no structures yet. Begin a training with it: 'medseg "
                f"train init_from={self.folder}'."
            )
        if found.configuration_name != name:
            raise refuse("the configuration", name, found.configuration_name)
        if found.classes != self.labels.outputs:
            raise refuse("a number of classes of", self.labels.outputs, found.classes)
        if found.activation != self.labels.activation:
            kinds = {"softmax": "single labels", "sigmoid": "regions"}
            raise refuse("targets that are", kinds[self.labels.activation], kinds[found.activation])
        channels = len(self.plan.channels) + (len(self.labels) - 1 if found.configuration.previous else 0)
        if found.channels != channels:
            raise refuse("a number of channels of", channels, found.channels)
        if found.preparation is not None and found.preparation != preparation_of(self.plan):
            keys = [key for key, value in preparation_of(self.plan).items() if found.preparation.get(key) != value]
            raise refuse(f"another {' and '.join(keys)},", "what plan.yaml says", "not what plan.yaml says")
        if _as_predicted(found.configuration) != _as_predicted(first.configuration):
            raise refuse("another patch size, spacing or network than", "one for all folds", "the first chosen fold")


@dataclass(frozen=True)
class Networks:
    """The chosen folds of a Model, ready to predict."""

    networks: tuple[nn.Module, ...]
    name: str
    """Of the configuration."""
    configuration: ConfigurationPlan
    folds: tuple[Fold, ...]
    plan: Plan
    labels: LabelTable
    mirror_axes: tuple[int, ...]
    """Axes on which mirroring was allowed in training."""
    identity: str
    """``Model.identity`` of these folds, with that of the networks before them in a cascade."""
    beside: tuple[Networks, ...] = ()
    """Other configurations whose probabilities are averaged with this one's."""
    previous: Networks | None = None
    """In a cascade: those whose labels are an additional input."""
    rules: tuple[ComponentRule, ...] = ()
    """Post-processing that was learned for just these networks."""
    snapshots: tuple[nn.Module, ...] = ()
    """Earlier networks of the same trainings, where they are averaged as well."""

    @property
    def averaged(self) -> tuple[nn.Module, ...]:
        """All networks whose probabilities are averaged."""
        return (*self.networks, *self.snapshots)

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        tensors = [tensor for network in self.averaged for tensor in (*network.parameters(), *network.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def preparation_of(plan: Plan) -> dict[str, Any]:
    """The parts of a Plan, beside the configuration, that decide what a network gets to see, as plain data."""
    content = plan.model_dump(mode="json", exclude_none=True, include={"orientation", "axis_order", "channels"})
    return {key: content[key] for key in ("orientation", "axis_order", "channels")}


def read_network(path: Path) -> tuple[nn.Module, WeightsDescription]:
    """The network of a weights file (safetensors) or of an ONNX graph, on the CPU and in eval mode.

    Raises CheckpointError for a damaged or foreign file.
    """
    make, description = _opened(path)
    return make(), description


def _opened(path: Path) -> tuple[Callable[[], nn.Module], WeightsDescription]:
    """What makes the network, once the description is found to fit, and the description."""
    if path.suffix == ".onnx":
        graph, found = load_graph(path)
        return graph.eval, _description(path, found)
    state, description = described_weights(path)
    return partial(_network, path, state, description), description


def described_weights(path: Path) -> tuple[dict[str, Tensor], WeightsDescription]:
    """The tensors of one fold and what they say of themselves. Raises CheckpointError for a damaged or foreign file."""
    state, found = load_weights(path)
    return state, _description(path, found)


def _network(path: Path, state: Mapping[str, Tensor], description: WeightsDescription) -> nn.Module:
    plan = description.configuration
    network = build_network(plan.network, plan.dimensions, description.channels, description.classes)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit the network that it describes: {detail}") from None
    return network.eval().requires_grad_(False)


def _description(path: Path, found: Mapping[str, Any]) -> WeightsDescription:
    try:
        return WeightsDescription.model_validate(found)
    except ValueError as error:
        sentence = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not describe its network as medseg does: {sentence}") from None


def _run_by(
    engine: Engine, device: torch.device, path: Path, network: nn.Module, description: WeightsDescription
) -> nn.Module:
    """The network on its device, as an ONNX graph where the engine is to be ONNX Runtime."""
    if isinstance(network, OnnxNetwork) and engine == "torch":
        raise SettingsError(f"{path} is an ONNX graph, which engine=torch can't run. Leave engine= out.")
    if isinstance(network, OnnxNetwork) or engine == "onnx":
        if device.type != "cpu":
            raise SettingsError(f"ONNX graphs run on the CPU here, but the device is {device}. Add device=cpu.")
        if not isinstance(network, OnnxNetwork):
            graph = to_onnx(network, description.channels, description.configuration.patch_size, {})
            network = OnnxNetwork(graph, str(path)).eval()
    return network.to(device)


def _as_predicted(configuration: ConfigurationPlan) -> dict[str, Any]:
    """What folds must share to be averaged: how a Case is prepared and tiled."""
    return configuration.model_dump(include={"dimensions", "spacing", "patch_size", "previous"})


def _listed(folds: Iterable[Fold]) -> str:
    return ", ".join(str(fold) for fold in folds)
