"""One temperature that makes probabilities keep what they promise: fitted on voxels of held-out Cases, applied to rows.

Knows nothing of networks. Rule: temperature scaling (Guo et al. 2017), applied after the members' probabilities have
been averaged (pool-then-calibrate, Rahaman & Thiery 2021): ``p ** (1 / T)``, normalised, is ``softmax(logits / T)``
where there is one member. The largest class stays the largest, so labels do not change. Regions, and single structures
by themselves, are calibrated as sigmoids.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.errors import MedsegError

Activation = Literal["softmax", "sigmoid"]
_SMALLEST = 1e-8
"""Below it a probability in single precision says nothing more."""
_WIDEST = float(np.log(20.0))
"""Temperatures are looked for between 1/20 and 20."""


def tempered(probabilities: Tensor, temperature: float, activation: Activation) -> Tensor:
    """Calibrated probabilities ``(K, ...)``; the same ones where the temperature is 1."""
    if temperature == 1:
        return probabilities
    if activation == "sigmoid":
        return torch.sigmoid(torch.logit(probabilities, eps=_SMALLEST) / temperature)
    return torch.softmax(probabilities.clamp(min=_SMALLEST).log() / temperature, dim=0)


def fit_temperature(
    probabilities: Float[np.ndarray, "K N"],
    truth: NDArray[np.integer | np.bool_],
    weight: Float[np.ndarray, " N"],
    activation: Activation,
) -> float:
    """The temperature of least negative log likelihood; there is a single one, because it is convex in 1/T.

    ``truth`` holds the class of each voxel ``(N,)``, or for sigmoids whether each is there ``(K, N)``; ``weight`` says
    how many voxels of the image each one stands for. Raises MedsegError without voxels.
    """
    from scipy.optimize import minimize_scalar  # slow to import

    if not weight.sum() > 0:
        raise MedsegError("There is no voxel to fit a temperature on.")
    p = torch.from_numpy(np.ascontiguousarray(probabilities, np.float64))
    share = torch.from_numpy(weight / weight.sum())
    if activation == "sigmoid":
        sign = torch.from_numpy(np.where(truth, -1.0, 1.0))
        scores = torch.logit(p, eps=_SMALLEST) * sign

        def loss(log_temperature: float) -> float:
            return float((torch.nn.functional.softplus(scores * np.exp(-log_temperature)).mean(dim=0) * share).sum())
    else:
        scores = p.clamp(min=_SMALLEST).log()
        of_truth = scores.gather(0, torch.from_numpy(truth.astype(np.int64))[None])[0]

        def loss(log_temperature: float) -> float:
            sharpness = np.exp(-log_temperature)
            return float(((torch.logsumexp(scores * sharpness, dim=0) - of_truth * sharpness) * share).sum())

    found = minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue] (scipy's types do not say what it gives)
