"""The learning rate of every iteration, and where a training ends: as planned, earlier at a plateau, or later.

Knows nothing of networks; everything is counted in iterations, nothing by the clock. The decay is nnU-Net's polynomial
(Isensee et al. 2021). A training that stops early is not cut off: its rate falls to 0 within a fifth of its length,
which Haegele et al. 2024 (arXiv 2405.18392) find to be as good as a decay over the whole length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pydantic import Field, NonNegativeInt, PositiveInt

from medseg.documents import Record
from medseg.planning.plan import OptimizerPlan

_WARMUP_SHARE = 0.03
_POLY_EXPONENT = 0.9
_DECAY_SHARE = 0.25
"""An early decay takes a quarter of what was trained before it: a fifth of the whole."""
_FEWEST_CHECKS = 12
"""A plateau is sought over a third of the checks; a line through less than four says nothing about its own noise."""


class Stretch(Record):
    """A run of iterations over which the rate (rises, then) falls to 0 by one polynomial."""

    start: NonNegativeInt
    """First iteration, counted from 0."""
    end: PositiveInt
    """The iteration before which it ends."""
    rate: float = Field(ge=0)
    """At the start of the decay."""
    before: float = Field(default=0.0, ge=0)
    """The rate from which it warms up."""
    warmup: NonNegativeInt = 0
    """Iterations of linear rise from ``before`` to ``rate``."""
    cycles: PositiveInt = 1
    """How often the rate falls to 0, each time from ``rate`` and over as many iterations (Huang et al. 2017)."""

    def rate_at(self, iteration: int) -> float:
        """The learning rate of one of its iterations."""
        done = iteration - self.start
        if done < self.warmup:
            return self.before + (self.rate - self.before) * (done + 1) / (self.warmup + 1)
        first, last = [cycle for cycle in pairwise((self.start, *self.ends)) if cycle[0] <= iteration][-1]
        first += self.warmup if first == self.start else 0
        return self.rate * (1 - (iteration - first) / max(last - first, 1)) ** _POLY_EXPONENT

    @property
    def ends(self) -> tuple[int, ...]:
        """The iteration before which each cycle ends."""
        length = self.end - self.start
        return tuple(self.start + round(length * number / self.cycles) for number in range(1, self.cycles + 1))


class Watch(Record):
    """Held-out Cases that are predicted whole, again and again, while the training runs."""

    cases: tuple[str, ...]
    every: PositiveInt
    """Iterations from one check to the next."""


class Part(Record):
    """A length that was asked for: the training as it was begun, or what it was extended or shortened to."""

    stretch: Stretch
    watch: Watch | None = None
    """None where nothing is held out, or the training is too short for a single check."""
    early_stop: bool = False
    """Whether a plateau of the held-out Cases' Dice ends it early."""
    budget: float | None = None
    """Seconds that were asked for, where it was a time."""
    seconds_per_iteration: float | None = None
    """What the probe measured, where a time was turned into iterations."""

    @property
    def checks(self) -> int:
        """How often the held-out Cases are looked at."""
        return (self.stretch.end - self.stretch.start) // self.watch.every if self.watch else 0

    @property
    def can_stop(self) -> bool:
        """Whether there are enough checks to tell a plateau from noise, and it was wanted."""
        return self.early_stop and self.checks >= _FEWEST_CHECKS


class Schedule:
    """The stretches of one training, as settled in its Recipe and as decided on the way."""

    def __init__(self, parts: Sequence[Part], decays: Sequence[Stretch] = ()) -> None:
        self.parts, self.decays = tuple(parts), tuple(decays)

    @property
    def end(self) -> int:
        """Iterations in all, as far as is known by now."""
        return self._stretches[-1].end

    def rate_at(self, iteration: int) -> float:
        """The learning rate of an iteration (from 0): by the stretch that was begun last."""
        begun = [stretch for stretch in self._stretches if stretch.start <= iteration]
        return begun[-1].rate_at(iteration)

    def part_of(self, done: int) -> Part:
        """The part to which the step belongs with which ``done`` steps are done."""
        return [part for part in self.parts if part.stretch.start < max(done, 1)][-1]

    def is_check(self, done: int) -> bool:
        """Whether the held-out Cases are looked at after ``done`` steps; always at the end."""
        part = self.part_of(done)
        return part.watch is not None and ((done - part.stretch.start) % part.watch.every == 0 or done == self.end)

    def decay_early(self, done: int) -> bool:
        """Let the rate fall to 0 from here on; False where that would not end the part before its time.

        Only once in a part, and only where the part allows it.
        """
        part = self.part_of(done)
        length = max(round(_DECAY_SHARE * (done - part.stretch.start)), 1)
        decaying = any(decay.start > part.stretch.start for decay in self.decays)
        if not part.can_stop or decaying or done + length >= part.stretch.end:
            return False
        self.decays = (*self.decays, Stretch(start=done, end=done + length, rate=self.rate_at(done)))
        return True

    @property
    def _stretches(self) -> list[Stretch]:
        # Where a decay and a part begin at the same iteration, the part was asked for later: it counts.
        return sorted([*self.decays, *(part.stretch for part in self.parts)], key=lambda stretch: stretch.start)


def planned_stretch(optimizer: OptimizerPlan, iterations: int, gently: bool = False, cycles: int = 1) -> Stretch:
    """A whole training: AdamW warms up over the first 3 %, SGD only where it should begin ``gently``.

    Of several ``cycles`` only the first warms up.
    """
    assert optimizer.learning_rate is not None  # settled
    warmup = round(_WARMUP_SHARE * iterations / cycles) if gently or optimizer.name == "adamw" else 0
    return Stretch(start=0, end=iterations, rate=optimizer.learning_rate, warmup=warmup, cycles=cycles)


def continued_stretch(schedule: Schedule, done: int, optimizer: OptimizerPlan, iterations: int) -> Stretch:
    """From ``done`` steps on to another end, ``iterations``.

    The rate is that which a training planned for this length would have here (so a longer one warms up again, over 3 %
    of what is left), and never less than the rate now (so a shorter one decays from where it is). Warming up again and
    decaying anew is what continued pre-training does (Ibrahim et al. 2024, arXiv 2403.08763).
    """
    assert optimizer.learning_rate is not None  # settled
    now = schedule.rate_at(done)
    planned = optimizer.learning_rate * (1 - done / iterations) ** _POLY_EXPONENT
    warmup = round(_WARMUP_SHARE * (iterations - done)) if planned > now else 0
    return Stretch(start=done, end=iterations, rate=max(planned, now), before=now, warmup=warmup)
