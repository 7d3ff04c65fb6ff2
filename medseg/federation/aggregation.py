"""What becomes of the sites' changes: pure functions, arrays in and arrays out.

Knows neither sites nor messages. A *change* is a site's weights minus those it was given, by name of tensor. Sums run
in float64, in the order given, and end in the types of the weights, so equal changes give equal bytes. Rules: FedAvg
(McMahan et al. 2017), server momentum and Adam (Reddi et al. 2021), coordinate median and trimmed mean (Yin et al.
2018), SCAFFOLD (Karimireddy et al. 2020), late changes by their age (Xie et al. 2019, Nguyen et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.errors import SettingsError

Tensors = Mapping[str, np.ndarray]

FEWEST_FOR_ROBUST = 5
"""Sites below which a median or a trimmed mean protects against nobody."""


@dataclass(frozen=True)
class Change:
    """What one site has changed."""

    delta: Tensors
    weight: float = 1.0
    """How much it counts; public, such as the declared number of cases."""
    age: int = 0
    """Rounds since the weights from which it began."""


def weighted_mean(changes: Sequence[Change]) -> dict[str, np.ndarray]:
    """FedAvg: the mean of the changes by their weights, float64."""
    total = sum(change.weight for change in changes)
    return _summed([(change.weight / total, change.delta) for change in changes])


def coordinate_median(changes: Sequence[Change]) -> dict[str, np.ndarray]:
    """The median of every coordinate; weights do not count. Raises SettingsError for fewer than 5 sites."""
    _require_robust("median", len(changes))
    return {name: np.median(stack, axis=0) for name, stack in _stacked(changes)}


def trimmed_mean(changes: Sequence[Change], share: float = 0.2) -> dict[str, np.ndarray]:
    """The mean of every coordinate without the largest and the smallest ``share`` of the values, after a norm bound.

    A change longer than the median of their norms is first shortened to it, so that no site pulls further than half of
    them do. Weights do not count. Raises SettingsError for fewer than 5 sites.
    """
    _require_robust("trimmed", len(changes))
    cut = max(1, int(share * len(changes)))
    bound = float(np.median([norm_of(change.delta) for change in changes]))
    bounded = [Change(shortened(change.delta, bound)) for change in changes]
    return {name: np.sort(stack, axis=0)[cut:-cut].mean(axis=0) for name, stack in _stacked(bounded)}


def merge_late(changes: Sequence[Change], exponent: float = 0.5) -> dict[str, np.ndarray]:
    """The sum of the changes by weight and age: each counts weight / total / (1 + age) ** exponent.

    The total is that of the weights alone, so that a late change moves the model less and not the others more.
    """
    total = sum(change.weight for change in changes)
    return _summed([(c.weight / total / (1 + c.age) ** exponent, c.delta) for c in changes])


AGGREGATIONS: dict[str, Callable[[Sequence[Change]], dict[str, np.ndarray]]] = {
    "mean": weighted_mean,
    "median": coordinate_median,
    "trimmed": trimmed_mean,
    "late": merge_late,
}


def plain_step(
    weights: Tensors, delta: Tensors, memory: Tensors
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The weights moved by the change; (weights, what the server remembers)."""
    return _moved(weights, delta), dict(memory)


def momentum_step(
    weights: Tensors, delta: Tensors, memory: Tensors, rate: float = 0.5, momentum: float = 0.9
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """FedAvgM: the server's velocity is ``momentum`` times the old one plus the change."""
    velocity = {f"velocity.{name}": momentum * _past(memory, "velocity", name, d) + d for name, d in delta.items()}
    return _moved(weights, {name: rate * velocity[f"velocity.{name}"] for name in delta}), velocity


def adam_step(
    weights: Tensors,
    delta: Tensors,
    memory: Tensors,
    rate: float = 0.003,
    first: float = 0.9,
    second: float = 0.99,
    floor: float = 1e-3,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """FedAdam: Adam on the server, the change as its gradient; no bias correction, as in the paper."""
    remembered: dict[str, np.ndarray] = {}
    step: dict[str, np.ndarray] = {}
    for name, d in delta.items():
        mean = first * _past(memory, "mean", name, d) + (1 - first) * d
        square = second * _past(memory, "square", name, d, floor**2) + (1 - second) * d**2
        remembered |= {f"mean.{name}": mean, f"square.{name}": square}
        step[name] = rate * mean / (np.sqrt(square) + floor)
    return _moved(weights, step), remembered


def control_step(control: Tensors, changes: Sequence[Tensors], sites: int) -> dict[str, np.ndarray]:
    """SCAFFOLD's server control: moved by the sum of the sites' control changes over the number of all sites."""
    return _moved(control, _summed([(1 / sites, change) for change in changes]))


def site_control(
    own: Tensors, server: Tensors, delta: Tensors, rate_sum: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A site's new SCAFFOLD control and its change, by option II: c_i - c - delta / (sum of the learning rates)."""
    new = {name: (own[name] - server[name] - d / rate_sum).astype(d.dtype) for name, d in delta.items()}
    return new, {name: new[name] - own[name] for name in new}


def norm_of(delta: Tensors) -> float:
    """Euclidean length over all tensors; float64."""
    return float(np.sqrt(sum(float(np.square(d, dtype=np.float64).sum()) for d in delta.values())))


def shortened(delta: Tensors, bound: float) -> dict[str, np.ndarray]:
    """The change, no longer than ``bound``; a change of length 0 stays what it is."""
    norm = norm_of(delta)
    factor = 1.0 if norm <= bound else bound / norm
    return {name: np.asarray(d * factor, dtype=d.dtype) for name, d in delta.items()}


def _summed(parts: Sequence[tuple[float, Tensors]]) -> dict[str, np.ndarray]:
    names = parts[0][1].keys()
    return {name: np.asarray(sum(share * np.asarray(d[name], np.float64) for share, d in parts)) for name in names}


def _stacked(changes: Sequence[Change]) -> list[tuple[str, np.ndarray]]:
    return [(n, np.stack([np.asarray(c.delta[n], np.float64) for c in changes])) for n in changes[0].delta]


def _moved(weights: Tensors, delta: Tensors) -> dict[str, np.ndarray]:
    """In the types of the weights; a tensor without a change stays as it is."""
    return {
        name: np.asarray(w + delta[name], dtype=w.dtype) if name in delta else np.asarray(w)
        for name, w in weights.items()
    }


def _past(memory: Tensors, what: str, name: str, like: np.ndarray, start: float = 0.0) -> np.ndarray:
    found = memory.get(f"{what}.{name}")
    return np.full(np.shape(like), start) if found is None else found


def _require_robust(name: str, sites: int) -> None:
    if sites < FEWEST_FOR_ROBUST:
        raise SettingsError(
            f"strategy={name} needs the changes of at least {FEWEST_FOR_ROBUST} sites to outvote a bad one, but there "
            f"are {sites}. Use strategy=fedavg, or let more sites take part."
        )
