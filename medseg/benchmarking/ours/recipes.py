"""The Recipe of a training that is never finished: a plan's configuration with nnU-Net's optimizer and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.cases.labels import LabelTable
from medseg.planning.plan import OptimizerPlan, Plan
from medseg.training.recipe import Recipe, settle_optimizer
from medseg.training.schedule import Part, Stretch

_ITERATIONS = 250_000


def recipe_in(folder: Path, cases: Sequence[str] = ("none",), threads: int = 1) -> Recipe:
    """For the plan and the labels in a folder."""
    plan, table = Plan.load(folder / "plan.yaml"), LabelTable.load(folder / "labels.yaml")
    name, configuration = plan.configuration(None)
    optimizer = settle_optimizer(OptimizerPlan(name="sgd"), _ITERATIONS)
    assert optimizer.learning_rate is not None  # settled
    return Recipe(
        configuration_name=name,
        configuration=configuration,
        training=plan.training.model_copy(update={"optimizer": optimizer}),
        parts=(Part(stretch=Stretch(start=0, end=_ITERATIONS, rate=optimizer.learning_rate)),),
        fold=0,
        channels=len(plan.channels),
        labels=table,
        plan="none",
        preparation={},
        shaping="none",
        data="none",
        training_cases=tuple(cases),
        validation_cases=(),
        threads=threads,
    )
