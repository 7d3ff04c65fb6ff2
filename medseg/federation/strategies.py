"""The strategies by name: how changes are joined, how the server moves, and what the sites do differently.

Knows no messages. The rules themselves are in ``medseg.federation.aggregation``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medseg.errors import SettingsError
from medseg.federation.aggregation import (
    FEWEST_FOR_ROBUST,
    Change,
    adam_step,
    coordinate_median,
    merge_late,
    momentum_step,
    plain_step,
    trimmed_mean,
    weighted_mean,
)
from medseg.federation.run_settings import RunSettings

StrategyName = Literal[
    "fedavg", "fedprox", "fedavgm", "fedadam", "scaffold", "median", "trimmed", "personalised", "async"
]
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Strategy:
    """One way to make one model of many changes."""

    join: Callable[[list[Change]], dict[str, np.ndarray]] = weighted_mean
    step: Callable[[Tensors, Tensors, Tensors], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = plain_step
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the run's settings are where the user says nothing else."""
    fewest: int = 1
    """Sites without which it means nothing."""
    takes_late: bool = False
    """Whether a round ends with the quorum, and a late change is merged when it comes."""


STRATEGIES: dict[StrategyName, Strategy] = {
    "fedavg": Strategy(),
    "fedprox": Strategy(settings={"proximal_mu": 0.01}),
    "fedavgm": Strategy(step=momentum_step),
    "fedadam": Strategy(step=adam_step),
    "scaffold": Strategy(settings={"control": True}),
    "median": Strategy(join=coordinate_median, fewest=FEWEST_FOR_ROBUST),
    "trimmed": Strategy(join=trimmed_mean, fewest=FEWEST_FOR_ROBUST),
    "personalised": Strategy(settings={"keep_local": "norm"}),
    "async": Strategy(join=merge_late, takes_late=True),
}


def settings_for(name: StrategyName, settings: RunSettings, given: Collection[str]) -> RunSettings:
    """The run's settings with what the strategy brings, where the user has ``given`` nothing else."""
    brought = {key: value for key, value in STRATEGIES[name].settings.items() if key not in given}
    return RunSettings.model_validate({**settings.model_dump(), **brought})


def require_enough(name: StrategyName, sites: int) -> None:
    """Raise SettingsError where a strategy means nothing for so few sites."""
    fewest = STRATEGIES[name].fewest
    if sites < fewest:
        raise SettingsError(
            f"strategy={name} needs at least {fewest} sites, but there are {sites}. Use strategy=fedavg, or more sites."
        )
