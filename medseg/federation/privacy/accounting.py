"""How much privacy a sequence of noised steps has cost: epsilon at a given delta, and the noise that a target needs.

Knows neither patients nor networks. Every step is the Gaussian mechanism on a Poisson sample; neighbours differ by one
added or removed record. RDP (Mironov et al. 2019, arXiv 1908.10530) is instant and gates each round; PRV (Gopi et al.
2021, arXiv 2106.02848) is tighter and slow, for the certificate; both are Opacus'. Without sampling the composition is
one Gaussian, whose epsilon is known exactly (Balle & Wang 2018, arXiv 1805.06530).
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field, NonNegativeInt

from medseg.documents import Record
from medseg.errors import SettingsError

_ORDERS = [1 + x / 10 for x in range(1, 100)] + [*range(12, 64), 80, 96, 128, 192, 256, 512]
"""Opacus' own, and larger ones for little spent."""
_HOPELESS = 50.0
"""Above this epsilon promises nothing, and PRV takes long to say so."""
_MOST_MECHANISMS = 3
"""PRV takes seconds for one kind of step and half a minute for fifty."""


Noise = Annotated[float, Field(ge=0.01, le=1e6)]
"""A noise multiplier for which the accountants give a number; less is no noise."""


class Mechanism(Record):
    """The same kind of step, so many times."""

    sample_rate: float = Field(gt=0, le=1)
    """Probability q with which each record takes part in a step."""
    noise_multiplier: Noise
    """Standard deviation of the noise in units of the clip bound."""
    steps: NonNegativeInt


def largest_delta(records: int) -> float:
    """1 / (10 N): a delta of 1/N would allow to publish one whole record."""
    return 1 / (10 * max(records, 1))


def epsilon_rdp(history: Iterable[Mechanism], delta: float) -> float:
    """Epsilon of all steps together, an upper bound that is 10 to 15 % above PRV's; 0 for no step."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = _merged(history)
    if not accountant.history:
        return 0.0
    with _at_the_end_of_the_orders():
        epsilon = float(accountant.get_epsilon(delta, alphas=_ORDERS))
    return math.inf if math.isnan(epsilon) else max(epsilon, 0.0)


def epsilon_tight(history: Iterable[Mechanism], delta: float) -> float | None:
    """Epsilon by PRV, exactly where there is no sampling; None where it is too large or too mixed for an answer."""
    steps = _merged(history)
    if not steps:
        return 0.0
    if all(rate == 1 for _, rate, _ in steps):
        return epsilon_gaussian(1 / math.sqrt(sum(n / sigma**2 for sigma, _, n in steps)), delta)
    mixed = len(steps) > _MOST_MECHANISMS or any(rate == 1 for _, rate, _ in steps)
    if mixed or epsilon_rdp(history_of(steps), delta) > _HOPELESS:
        return None
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = steps
    with _at_the_end_of_the_orders():
        found = float(accountant.get_epsilon(delta))
    return found if math.isfinite(found) else None


def epsilon_gaussian(noise_multiplier: float, delta: float) -> float:
    """Epsilon of a single Gaussian mechanism without sampling, exact: where its delta has fallen to ``delta``."""
    from scipy.optimize import brentq

    if delta_gaussian(noise_multiplier, 0.0) <= delta:
        return 0.0
    high = 1.0
    while delta_gaussian(noise_multiplier, high) > delta:
        high *= 2
    found = brentq(lambda epsilon: delta_gaussian(noise_multiplier, epsilon) - delta, 0.0, high, xtol=1e-9)
    assert isinstance(found, float)  # without full_output it is only the root
    return found


def delta_gaussian(noise_multiplier: float, epsilon: float) -> float:
    """Delta of a single Gaussian mechanism at an epsilon (Balle & Wang 2018, theorem 8)."""
    from scipy.special import log_ndtr

    half, shift = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
    return float(math.exp(log_ndtr(half - shift)) - math.exp(epsilon + log_ndtr(-half - shift)))


def noise_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier (to 1 %) with which so many steps stay within epsilon, by RDP.

    Raises SettingsError where none would do.
    """
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _at_the_end_of_the_orders():
            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="rdp",
                    epsilon_tolerance=0.01 * epsilon,
                    alphas=_ORDERS,
                )
            )
    except ValueError:
        raise SettingsError(
            f"No noise keeps {steps} steps at a sampling rate of {sample_rate:g} within epsilon {epsilon:g} at delta "
            f"{delta:.2g}. Take fewer rounds or steps, or allow a larger epsilon."
        ) from None


def history_of(steps: Iterable[tuple[float, float, int]]) -> list[Mechanism]:
    """Opacus' triples (noise multiplier, sampling rate, steps) as Mechanisms."""
    return [Mechanism(sample_rate=rate, noise_multiplier=sigma, steps=count) for sigma, rate, count in steps]


@contextmanager
def _at_the_end_of_the_orders() -> Iterator[None]:
    """An optimum at the end of the list of orders could be bettered beyond it; the bound holds nevertheless."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield


def _merged(history: Iterable[Mechanism]) -> list[tuple[float, float, int]]:
    """In Opacus' form; equal steps are counted together, since composition does not know an order."""
    counts: dict[tuple[float, float], int] = defaultdict(int)
    for part in history:
        counts[part.noise_multiplier, part.sample_rate] += part.steps
    return [(sigma, rate, count) for (sigma, rate), count in sorted(counts.items()) if count]
