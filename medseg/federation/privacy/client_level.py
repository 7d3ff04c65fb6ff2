"""Client-level privacy: whether a whole hospital took part is hidden from whoever sees the model, not from the server.

Knows nothing of rounds. DP-FedAvg with a fixed number of sites (McMahan et al. 2018, arXiv 1710.06963): each update is
clipped, all count the same, and the mean is noised once. With a handful of hospitals the noise is larger than what they
have to say; the arithmetic is in ``warning_below``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.errors import SiteError
from medseg.federation.messages import Arrays
from medseg.federation.privacy.noise import SystemNoise

FEW_SITES = 100


def clipped_update(update: Arrays, clip: float) -> dict[str, np.ndarray]:
    """The update with a norm over all its arrays of at most ``clip``, float64.

    Raises SiteError for anything that is not a finite floating number, which no clipping would bound.
    """
    if any(array.dtype.kind != "f" for array in update.values()):
        raise SiteError("bad-update-type")
    exact = {name: array.astype(np.float64) for name, array in update.items()}
    if not all(np.isfinite(array).all() for array in exact.values()):
        raise SiteError("not-finite")
    # Scaled by the largest number first: the square of a large finite number may not be finite.
    largest = max((float(np.abs(array).max(initial=0.0)) for array in exact.values()), default=0.0)
    if largest == 0:
        return exact
    norm = largest * float(np.sqrt(sum(float(((array / largest) ** 2).sum()) for array in exact.values())))
    return {name: array * min(1.0, clip / norm) for name, array in exact.items()} if norm > clip else exact


def private_mean(
    updates: Sequence[Arrays], clip: float, noise_multiplier: float, sites: int, noise: SystemNoise
) -> dict[str, np.ndarray]:
    """The noised mean of the sites' updates, float32; ``sites`` is the number agreed on, whoever answered.

    One site more or less moves the sum by at most ``clip``; its noise has the standard deviation
    ``noise_multiplier * clip``, whence that of every number of the mean is ``noise_multiplier * clip / sites``.
    """
    bounded = [clipped_update(update, clip) for update in updates]
    if not bounded or any(set(update) != set(bounded[0]) for update in bounded):
        raise SiteError("bad-update-names")
    mean = {}
    for name in sorted(bounded[0]):
        total = np.sum([update[name] for update in bounded], axis=0)
        noised = total + noise_multiplier * clip * noise.normal(total.size).reshape(total.shape)
        mean[name] = (noised / sites).astype(np.float32)
    return mean


def warning_below(sites: int, parameters: int, noise_multiplier: float) -> str | None:
    """What the noise does to so few sites, as a sentence; None where there are enough."""
    if sites >= FEW_SITES:
        return None
    ratio = noise_multiplier * np.sqrt(parameters) / sites
    return (
        f"Client-level privacy hides whole hospitals and needs about {FEW_SITES} of them; here are {sites}. The noise "
        f"in every round is {ratio:.3g} times as long as the largest update that all of them together can make "
        f"({parameters:,} parameters, noise multiplier {noise_multiplier:.3g}). privacy=patient protects patients, "
        "also from the server."
    )
