"""DP-SGD whose unit is the patient: one patient, one clipped gradient, however many patches were drawn of them.

Knows nothing of images: it is handed one function for each drawn patient that gives the mean loss over that patient's
patches. Each is one ordinary backward, so that no layer needs a rule for gradients per sample; clipping, noise and the
step are Opacus' (Abadi et al. 2016, arXiv 1607.00133). What depends on the weights alone, weight decay and FedProx's
pull, comes after the noise and costs no privacy.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.federation.privacy.noise import SystemNoise

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer

Loss = Callable[[], Tensor]
"""The mean loss over the patches of one patient, computed when called."""
P = TypeVar("P")


def draw_patients(patients: Sequence[P], sample_rate: float) -> tuple[P, ...]:
    """Each patient with probability ``sample_rate``, independently of the others and of any seed; perhaps none."""
    chance = secrets.SystemRandom()
    return tuple(patient for patient in patients if chance.random() < sample_rate)


def require_no_batch_statistics(network: nn.Module) -> None:
    """Raise PlanError where a patient's gradient would depend on other patients, or their statistics be kept.

    Opacus' own validator overlooks batch norm and running statistics without affine weights.
    """
    from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

    for name, module in network.named_modules():
        running = isinstance(module, _NormBase) and module.track_running_stats
        if isinstance(module, _BatchNorm) or running:
            raise PlanError(
                f"The network's module '{name}' is {type(module).__name__}, which keeps statistics of the images it "
                "has seen: they would leave without noise. Privacy needs instance, group or layer normalisation "
                "without running statistics."
            )


class PatientGradients:
    """The gradients of drawn patients: each clipped, summed, noised, and divided by a number known in advance."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: float,
        noise_multiplier: float,
        expected_patients: float,
        pull: float = 0.0,
    ) -> None:
        """``optimizer`` holds the parameters that are trained, and only those.

        ``clip`` is the largest norm of one patient's gradient over all of them; the noise has the standard deviation
        ``noise_multiplier * clip``. ``expected_patients`` is the public q N by which every sum is divided, whoever was
        drawn. ``pull`` is FedProx's mu, towards the weights as they are now.
        """
        require_no_batch_statistics(network)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._optimizer = _with_own_noise(optimizer, clip, noise_multiplier, expected_patients)
        self._anchor = [p.detach().clone() for p in self._parameters] if pull else []
        self._pull = pull
        self._optimizer.attach_step_hook(lambda _: self._pull_back())
        self.left_out = 0
        """Gradients that were no finite numbers and count as 0; of no patient may this number leave the site."""

    def step(self, losses: Iterable[Loss]) -> None:
        """One step of the optimizer for the patients drawn; for none of them it is made of noise alone."""
        self._accumulate(losses)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def noised(self, losses: Iterable[Loss]) -> list[Tensor]:
        """What ``step`` would hand to the optimizer, one tensor for each parameter, without taking the step."""
        self._accumulate(losses)
        self._optimizer.pre_step()
        gradients = [p.grad.detach().clone() for p in self._parameters if p.grad is not None]
        self._optimizer.zero_grad(set_to_none=True)
        return gradients

    def _accumulate(self, losses: Iterable[Loss]) -> None:
        for loss in losses:
            self._hand_over(gradient[None] for gradient in self._gradient_of(loss))
            self._optimizer.signal_skip_step(True)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        # What follows belongs to no patient, so that a draw of nobody is nothing special.
        self._hand_over(p.new_zeros((0, *p.shape)) for p in self._parameters)

    def _hand_over(self, samples: Iterable[Tensor]) -> None:
        for parameter, sample in zip(self._parameters, samples, strict=True):
            parameter.grad_sample = sample  # type: ignore[attr-defined]  # where Opacus looks for it

    def _gradient_of(self, loss: Loss) -> list[Tensor]:
        found = torch.autograd.grad(loss(), self._parameters, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, found, strict=True)]
        if all(bool(torch.isfinite(g).all()) for g in gradient):
            return gradient
        self.left_out += 1
        return [torch.zeros_like(g) for g in gradient]

    def _pull_back(self) -> None:
        for parameter, start in zip(self._parameters, self._anchor, strict=bool(self._anchor)):
            assert parameter.grad is not None  # the hook runs after noise was added
            parameter.grad += self._pull * (parameter.detach() - start)


def _with_own_noise(
    optimizer: torch.optim.Optimizer, clip: float, noise_multiplier: float, expected_patients: float
) -> DPOptimizer:
    from opacus.optimizers import DPOptimizer

    class WithSystemNoise(DPOptimizer):
        """Opacus' optimizer with noise that no seed can bring back."""

        source = SystemNoise()

        def add_noise(self) -> None:
            for parameter in self.params:
                noise = torch.from_numpy(self.source.normal(parameter.numel())).to(parameter).view_as(parameter)
                clipped: Tensor = parameter.summed_grad  # type: ignore[attr-defined]  # where Opacus keeps it
                parameter.grad = clipped + self.noise_multiplier * self.max_grad_norm * noise

    return WithSystemNoise(
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip,
        expected_batch_size=expected_patients,  # type: ignore[arg-type]  # a divisor; q N need not be a whole number
    )
