"""``medseg federated privacy-cost``: what a private training would cost its patients and its model, before it is begun.

Arithmetic only: nothing is read and nothing trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, PositiveFloat, PositiveInt

from medseg.commands.console import say, table
from medseg.settings import Settings, build


class PrivacyCostSettings(Settings):
    """Settings of ``medseg federated privacy-cost``."""

    patients: tuple[PositiveInt, ...] = (20, 50, 100, 300)
    """Of the smallest hospital, whose delta is 1 / (10 patients); several for a table."""
    rounds: PositiveInt = 20
    """Exchanges of weights."""
    steps: PositiveInt = 10
    """Steps of each hospital in a round."""
    drawn: PositiveFloat = 8.0
    """Patients drawn in a step on average."""
    noise_multiplier: PositiveFloat | None = None
    """Standard deviation of the noise over the clip bound; by default it follows from epsilon."""
    epsilon: tuple[PositiveFloat, ...] = (2.0, 4.0, 8.0, 16.0)
    """What the whole run may cost."""
    parameters: PositiveInt = Field(default=31_196_399)
    """That are trained; by default those of an nnU-Net of six stages in 3D."""


SETTINGS = (PrivacyCostSettings,)


def run(words: Mapping[str, str]) -> None:
    """Show epsilon, noise, and how much longer the noise is than what is to be learned."""
    from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp, epsilon_tight, largest_delta, noise_for
    from medseg.federation.protection import noise_per_signal

    settings = build(PrivacyCostSettings, words)
    steps, rows = settings.rounds * settings.steps, []
    for patients in settings.patients:
        delta, rate = largest_delta(patients), min(settings.drawn / patients, 1.0)
        for epsilon in settings.epsilon if settings.noise_multiplier is None else (0.0,):
            noise = settings.noise_multiplier or noise_for(epsilon, delta, rate, steps)
            done = [Mechanism(sample_rate=rate, noise_multiplier=noise, steps=steps)]
            tight = epsilon_tight(done, delta)
            rows.append(
                [
                    str(patients),
                    f"{rate:.3g}",
                    f"{delta:.2g}",
                    f"{noise:.2f}",
                    f"{epsilon_rdp(done, delta):.2f}",
                    "-" if tight is None else f"{tight:.2f}",
                    _length(noise_per_signal(noise, settings.parameters, rate * patients)),
                ]
            )
    columns = ["patients", "rate", "delta", "noise", "epsilon RDP", "tight", "noise / longest signal"]
    table(f"{steps} steps, {settings.parameters:,} parameters", columns, rows)
    say("Where the noise of a step is many times as long as any signal, a model from scratch learns nothing of use.")


def _length(times: float) -> str:
    return f"{times:,.0f}" if times >= 100 else f"{times:.3g}"
