"""A site's iterations under patient-level privacy: patients are drawn, not patches, and each gives one gradient.

Knows nothing of rounds or messages. Patches, augmentation and loss are those of ``medseg train``, but only ever of one
patient at a time: whatever they look at, such as which structures there are, is that patient's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import lightning_fabric
import torch
from torch import Tensor, nn

from medseg.cases.case import Case
from medseg.errors import PlanError
from medseg.federation.privacy.patient_gradients import Loss, PatientGradients, draw_patients
from medseg.federation.privacy.settings import PrivacySettings
from medseg.training.augment import augment_batch
from medseg.training.checkpoint import optimizer_tensors, restore_optimizer
from medseg.training.fold import new_loss, new_network
from medseg.training.patches import PatchDataset
from medseg.training.portion import Portion
from medseg.training.recipe import Recipe, build_optimizer
from medseg.training.schedule import Schedule

_APART = 1_000_003
"""Keeps the augmentation of one patient's patches apart from another's in the same step."""


def patients_of(cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    """Names of the cases of each patient; a case without a named patient is one of its own."""
    found: dict[str, tuple[str, ...]] = {}
    for case in cases:
        found[case.group] = (*found.get(case.group, ()), case.name)
    return found


def train_privately(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    patients: Mapping[str, Sequence[str]],
    privacy: PrivacySettings,
    weights: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Tensor],
    first: int,
    end: int,
    pull: float = 0.0,
) -> Portion:
    """Iterations ``first`` to ``end - 1``, each a step of DP-SGD at the settings' sampling rate and noise.

    ``pull`` is FedProx's mu. What it costs has to be charged before. Raises PlanError for a network that keeps
    statistics of batches, or where nothing is trained.
    """
    network = _network(fabric, recipe, privacy, weights)
    optimizer = build_optimizer(network.parameters(), recipe.training.optimizer)
    if optimizer_state:
        restore_optimizer(optimizer_state, optimizer)
    assert privacy.noise_multiplier is not None  # settled
    gradients = PatientGradients(
        network, optimizer, privacy.clip, privacy.noise_multiplier, privacy.sample_rate * len(patients), pull
    )
    losses = PatientLosses(fabric, recipe, prepared, patients, privacy.patches, network)
    schedule = Schedule(recipe.parts)
    for iteration in range(first, end):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(iteration)
        gradients.step(losses.drawn(iteration, privacy.sample_rate))
    return Portion(
        weights={name: value.detach().cpu().clone() for name, value in network.state_dict().items()},
        optimizer={name: value.detach().cpu().clone() for name, value in optimizer_tensors(optimizer).items()},
        loss=math.nan,  # those of the patients drawn are not looked at: they would have to be noised as well
        rate_sum=sum(schedule.rate_at(iteration) for iteration in range(first, end)),
    )


def noised_sum(
    fabric: lightning_fabric.Fabric,
    recipe: Recipe,
    prepared: Path,
    patients: Mapping[str, Sequence[str]],
    privacy: PrivacySettings,
    weights: Mapping[str, Tensor],
    iteration: int,
    sites: int,
) -> dict[str, Tensor]:
    """One draw's sum of clipped gradients, with this site's share of the noise: 1 / ``sites`` of its variance.

    Only with the shares of all sites, which nobody sees alone, is the noise that of the settings.
    """
    network = _network(fabric, recipe, privacy, weights)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert privacy.noise_multiplier is not None  # settled
    share = privacy.noise_multiplier / sites**0.5
    gradients = PatientGradients(network, torch.optim.SGD(trained.values(), lr=1.0), privacy.clip, share, 1.0)
    losses = PatientLosses(fabric, recipe, prepared, patients, privacy.patches, network)
    found = gradients.noised(losses.drawn(iteration, privacy.sample_rate))
    return {name: gradient.cpu() for name, gradient in zip(trained, found, strict=True)}


def _network(
    fabric: lightning_fabric.Fabric, recipe: Recipe, privacy: PrivacySettings, weights: Mapping[str, Tensor]
) -> nn.Module:
    network = new_network(recipe)
    network.load_state_dict(weights)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and privacy.trains(name))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PlanError(f"trained={privacy.trained} leaves nothing of this network to train. Use trained=all.")
    return network.to(fabric.device).train()


class PatientLosses:
    """The loss of each patient's own patches, computed when it is asked for."""

    def __init__(
        self,
        fabric: lightning_fabric.Fabric,
        recipe: Recipe,
        prepared: Path,
        patients: Mapping[str, Sequence[str]],
        patches: int,
        network: nn.Module,
    ) -> None:
        configuration = recipe.configuration.model_copy(update={"batch_size": patches})
        self._recipe = recipe.model_copy(update={"configuration": configuration})
        self._fabric, self._network, self._loss = fabric, network, new_loss(self._recipe)
        self._patches = [PatchDataset(prepared, cases, self._recipe) for _, cases in sorted(patients.items())]

    def drawn(self, iteration: int, sample_rate: float) -> Iterator[Loss]:
        """The losses of the patients drawn for one step."""
        for number in draw_patients(range(len(self._patches)), sample_rate):
            yield self._of(number, iteration)

    def _of(self, number: int, iteration: int) -> Callable[[], Tensor]:
        return lambda: self._compute(number, iteration)

    def _compute(self, number: int, iteration: int) -> Tensor:
        recipe = self._recipe
        images, labels = self._fabric.to_device(self._patches[number][iteration])
        images, labels = augment_batch(
            images,
            labels,
            recipe.configuration,
            recipe.training,
            iteration * _APART + number,
            structures_before=recipe.structures_before,
            outside=recipe.labels.outside_index,
            rgb=recipe.rgb,
        )
        with self._fabric.autocast():
            return self._loss(self._network(images), labels)
