"""The recipe follows the budget."""

import pytest

from medseg.planning.plan import OptimizerPlan
from medseg.training.budget import iterations_within
from medseg.training.recipe import learning_rate_at, settle_optimizer


def test_long_schedules_use_sgd_and_short_ones_adamw() -> None:
    assert settle_optimizer(OptimizerPlan(), 250_000).name == "sgd"
    assert settle_optimizer(OptimizerPlan(), 500).name == "adamw"
    assert [settle_optimizer(OptimizerPlan(), n).learning_rate for n in (100, 400, 800, 5000)] == [
        6e-3,
        4e-3,
        2e-3,
        2e-3,
    ]
    chosen = settle_optimizer(OptimizerPlan(name="sgd", learning_rate=0.5), 10)
    assert (chosen.name, chosen.learning_rate) == ("sgd", 0.5)


def test_nnunets_recipe_is_kept_to_the_number() -> None:
    plan = settle_optimizer(OptimizerPlan(name="sgd"), 250_000)
    assert (plan.learning_rate, plan.momentum, plan.weight_decay) == (0.01, 0.99, 3e-5)
    assert learning_rate_at(0, 250_000, plan) == 0.01
    assert learning_rate_at(125_000, 250_000, plan) == pytest.approx(0.01 * 0.5**0.9)


def test_the_rate_decays_to_nothing_over_the_whole_budget() -> None:
    plan = settle_optimizer(OptimizerPlan(), 200)
    rates = [learning_rate_at(i, 200, plan) for i in range(200)]
    top = rates.index(max(rates))
    assert 0 < top <= 10
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 0.02 * max(rates)


def test_a_budget_becomes_at_least_one_iteration() -> None:
    assert iterations_within(900, 1.0, 10) == 845
    assert iterations_within(1, 10, 5) == 1
