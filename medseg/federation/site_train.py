"""One round at one site: look at what came, train some iterations from it, answer with the change.

The training itself is ``medseg.training.portion``, the loop of ``medseg train``. Arrays come as ``weights.<name>`` (and
``control.<name>`` for SCAFFOLD) and leave as ``delta.<name>`` (and ``control.<name>``); what the run keeps local is in
neither. A Request that was answered before gets the same answer again, without training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medseg.errors import SiteError
from medseg.federation.aggregation import site_control
from medseg.federation.anchored_loss import AnchoredLoss
from medseg.federation.compression import compress
from medseg.federation.egress import Answer
from medseg.federation.messages import Arrays, Reply, Request, hash_arrays
from medseg.federation.privacy.training import noised_sum, patients_of, train_privately
from medseg.federation.run_settings import RunSettings, read_settings
from medseg.federation.secure_site import Masking, read_joint
from medseg.federation.site_privacy import charge_round, require_allowed
from medseg.federation.site_run import SiteRun
from medseg.inference.devices import choose_device, choose_precision
from medseg.training.fold import new_network
from medseg.training.portion import Portion, train_portion
from medseg.training.recipe import Recipe
from medseg.training.schedule import Watch
from medseg.training.watch import Watcher

if TYPE_CHECKING:
    from medseg.federation.site import Site


def cached(site: Site, request: Request) -> Reply | None:
    """The answer that this very Request got before, if it did."""
    return SiteRun.begun(site, request).cached(request)


def keep(site: Site, request: Request, reply: Reply) -> None:
    """Keep the answer as it left, to be sent again."""
    SiteRun.begun(site, request).keep_reply(request, reply)


def answer(site: Site, request: Request) -> Answer:
    """Train a round's iterations: cases, mean loss, Dice of the incoming network on held-out cases, and the change."""
    run, settings = SiteRun.begun(site, request), read_settings(request.header.get("settings"))
    if not 1 <= request.round <= settings.rounds:
        raise SiteError("bad-round")
    require_allowed(site.policy, settings)
    masking = Masking.begun(site.name, site.folder, request) if settings.is_masked else None
    recipe = run.recipe(settings)
    torch.set_num_threads(recipe.threads)
    fabric = _fabric(site)
    state = run.state_before(request.round)
    weights = merged_weights(recipe, settings, part_of(request.arrays, "weights"), state)
    dice = _look(run, recipe, fabric, weights)
    turn = _Turn(settings, recipe, run, request, weights, state)
    account = charge_round(run, request.round, settings, turn.patients) if settings.privacy.per_patient else None
    if settings.privacy.mode == "secure_patient":
        arrays, kept, loss = turn.gradient(fabric), dict(state), None
    else:
        portion = turn.train(fabric)
        arrays, kept = turn.answer(portion)
        loss = portion.loss if account is None else None
    if masking is not None:
        arrays = masking.answer({name.removeprefix("delta."): array for name, array in arrays.items()})
    run.keep_state(request.round, kept)
    header = {
        "cases": len(recipe.training_cases),
        "loss": loss,
        "dice": dice,
        "privacy": account and account.model_dump(mode="json"),
        "plan_sha256": request.plan_sha256,
        "weights_sha256": hash_arrays(request.arrays),
    }
    return Answer(header, arrays)


@dataclass(frozen=True)
class _Turn:
    """What one round's training begins with."""

    settings: RunSettings
    recipe: Recipe
    run: SiteRun
    request: Request
    weights: Mapping[str, Tensor]
    state: Mapping[str, Tensor]

    def train(self, fabric: Fabric) -> Portion:
        """The iterations of this round, by the agreed schedule."""
        first = (self.request.round - 1) * self.settings.steps
        optimizer = {name: value for name, value in self.state.items() if name.startswith("optimizer.")}
        if self.settings.privacy.per_patient:
            return train_privately(
                fabric,
                self.recipe,
                self.run.prepared,
                self.patients,
                self.settings.privacy,
                self.weights,
                optimizer,
                first,
                first + self.settings.steps,
                self.settings.proximal_mu,
            )
        return train_portion(
            fabric,
            self.recipe,
            self.run.prepared,
            self.weights,
            optimizer,
            first,
            first + self.settings.steps,
            self._anchored,
        )

    @property
    def patients(self) -> dict[str, tuple[str, ...]]:
        """The training cases of each patient."""
        return patients_of(self.run.split[0])

    def gradient(self, fabric: Fabric) -> dict[str, np.ndarray]:
        """The noised sum of the gradients of the patients drawn, with this site's share of the noise."""
        sites = len(read_joint(self.request.header.get("secure_sum")).participants)
        privacy, iteration = self.settings.privacy, self.request.round - 1
        found = noised_sum(
            fabric, self.recipe, self.run.prepared, self.patients, privacy, self.weights, iteration, sites
        )
        return {f"delta.{name}": gradient.numpy() for name, gradient in found.items()}

    def _anchored(self, loss: nn.Module, network: nn.Module) -> nn.Module:
        settings = self.settings
        if not settings.proximal_mu and not settings.control:
            return loss
        shared = {name: w for name, w in network.named_parameters() if not settings.is_kept(name)}
        slope: dict[str, Tensor] = {}
        if settings.control:
            own, server = self._controls()
            slope = {name: torch.from_numpy(server[name] - own[name]).to(w.device) for name, w in shared.items()}
        return AnchoredLoss(loss, shared, settings.proximal_mu, slope)

    def answer(self, portion: Portion) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
        """(arrays to send, what to remember)."""
        settings = self.settings
        shared = [name for name in sorted(self.weights) if not settings.is_kept(name)]
        delta = {name: (portion.weights[name] - self.weights[name]).numpy() for name in shared}
        residual = {name: value.numpy() for name, value in _part_of_state(self.state, "residual").items()}
        sent, left = compress(delta, settings.compression, residual)
        kept = {**portion.optimizer, **{f"residual.{name}": torch.from_numpy(a) for name, a in left.items()}}
        kept |= {f"private.{name}": w for name, w in portion.weights.items() if settings.is_kept(name)}
        arrays = {f"delta.{name}": array for name, array in sent.items()}
        if settings.control:
            own, server = self._controls()
            control, change = site_control(own, server, delta, portion.rate_sum)
            arrays |= {f"control.{name}": array for name, array in change.items()}
            kept |= {f"control.{name}": torch.from_numpy(array) for name, array in control.items()}
        return arrays, kept

    def _controls(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(the site's own, the server's) control of every tensor that is shared."""
        optimizer = self.recipe.training.optimizer
        if optimizer.name != "sgd" or optimizer.momentum:
            raise SiteError("scaffold-needs-sgd")  # its controls are mean gradients of plain descent
        server = part_of(self.request.arrays, "control")
        known = {name: value.numpy() for name, value in _part_of_state(self.state, "control").items()}
        own = {name: known.get(name, np.zeros_like(array)) for name, array in server.items()}
        return own, server


def merged_weights(
    recipe: Recipe, settings: RunSettings, shared: Arrays, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A whole network: shared tensors as they came, those that are kept local as they were left, or as they begin.

    Raises SiteError("bad-weights") where the shared ones are not exactly those of the plan's network.
    """
    fresh = new_network(recipe).state_dict()
    private = _part_of_state(state, "private")
    found = {}
    for name, value in fresh.items():
        if settings.is_kept(name):
            found[name] = private.get(name, value)
            continue
        array = shared.get(name)
        if array is None or array.shape != tuple(value.shape) or not np.isfinite(array).all():
            raise SiteError("bad-weights")
        found[name] = torch.from_numpy(np.array(array)).to(value.dtype)
    if set(shared) - set(found):
        raise SiteError("bad-weights")
    return found


def part_of(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays under a prefix, without it."""
    return {name.removeprefix(prefix + "."): a for name, a in arrays.items() if name.startswith(prefix + ".")}


def _part_of_state(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix + "."): t for name, t in state.items() if name.startswith(prefix + ".")}


def _look(run: SiteRun, recipe: Recipe, fabric: Fabric, weights: Mapping[str, Tensor]) -> float | None:
    """Dice of the incoming network on held-out cases, by the cheap check of training; None for too few of them."""
    held_out = recipe.validation_cases
    if len(held_out) < run.site.policy.min_count:
        return None
    network = new_network(recipe)
    network.load_state_dict(weights)
    watcher = Watcher(fabric, network.to(fabric.device), run.prepared, recipe)
    return watcher.check(Watch(cases=held_out, every=1), 0).dice


def _fabric(site: Site) -> Fabric:
    device = choose_device(site.device)
    return Fabric(accelerator=device.type, devices=1, precision=choose_precision(device))  # pyright: ignore[reportArgumentType]
