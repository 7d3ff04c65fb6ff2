"""How a training has gone so far, in numbers that do not depend on the clock; it travels in every checkpoint.

Knows nothing of networks or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Self

from medseg.documents import Record
from medseg.training.loop import Step
from medseg.training.mining import Mined, Origin
from medseg.training.plateau import has_plateaued
from medseg.training.schedule import Schedule, Stretch

_MEMORY = 0.97
_UNLEARNED = 0.05


class Check(Record):
    """What the watched held-out Cases scored after so many steps."""

    iteration: int
    structures: tuple[float | None, ...]
    """Mean Dice of each structure over the watched Cases that hold it; None where none does."""

    @property
    def dice(self) -> float:
        """Mean over the structures; 0 where the Cases hold none."""
        found = [value for value in self.structures if value is not None]
        return fmean(found) if found else 0.0

    @property
    def finds_everything(self) -> bool:
        """Whether every structure is found at all; before that a training is not done, however flat its course."""
        found = [value for value in self.structures if value is not None]
        return bool(found) and min(found) > _UNLEARNED


class Course(Record):
    """The numbers of a training up to some iteration."""

    iteration: int = 0
    """Steps done."""
    loss: float | None = None
    """Moving average of the training loss."""
    dice: float | None = None
    """Moving average of the training patches' Dice."""
    checks: tuple[Check, ...] = ()
    """Scores of held-out Cases on the way."""
    mined: Mined = Mined()
    """Patches on which the network did badly, where they are looked for."""
    decays: tuple[Stretch, ...] = ()
    """Early decays that plateaus of these scores have led to."""

    def after(self, step: Step, check: Check | None, origins: Sequence[Origin] = ()) -> Self:
        """The course with one more step, and with the scores of the held-out Cases where they were just predicted.

        ``origins`` are those of the step's patches, where hard ones are looked for.
        """
        return self.model_copy(
            update={
                "iteration": step.iteration,
                "loss": _average(self.loss, step.loss),
                "dice": _average(self.dice, step.dice),
                "checks": (*self.checks, check) if check else self.checks,
                "mined": self.mined.after(step.iteration, step.errors, origins) if step.errors else self.mined,
            }
        )

    def judged(self, schedule: Schedule) -> Self:
        """The course with the early decay that its newest check calls for, if it does; the schedule is told."""
        part = schedule.part_of(self.iteration)
        scores = [check.dice for check in self.checks if check.iteration > part.stretch.start]
        done = part.can_stop and self.checks[-1].finds_everything and has_plateaued(scores, part.checks // 3)
        if done and schedule.decay_early(self.iteration):
            return self.model_copy(update={"decays": schedule.decays})
        return self


def _average(old: float | None, value: float | None) -> float | None:
    if value is None or old is None:
        return old if value is None else value
    return _MEMORY * old + (1 - _MEMORY) * value
