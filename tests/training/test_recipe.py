"""The recipe follows the budget."""

from medseg.planning.plan import OptimizerPlan, TrainingPlan
from medseg.training.budget import iterations_within
from medseg.training.recipe import Recipe, optimizer_for_length, settle_optimizer

from tiny import tiny_recipe


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


def test_a_default_rate_follows_a_new_length_and_one_that_was_set_stays() -> None:
    default = settle_optimizer(OptimizerPlan(), 200)
    assert optimizer_for_length(default, 200, 2000).learning_rate == 2e-3
    assert optimizer_for_length(default, 200, 200_000).name == "adamw"
    chosen = settle_optimizer(OptimizerPlan(learning_rate=3e-4), 200)
    assert optimizer_for_length(chosen, 200, 2000).learning_rate == 3e-4


def test_a_training_begun_with_an_older_version_is_still_recognised() -> None:
    class NewerPlan(TrainingPlan):
        added: bool = True

    class Newer(Recipe):
        training: NewerPlan

    recipe = tiny_recipe()
    content = recipe.model_dump(mode="json")
    assert Newer.model_validate(content).hash_at(6) == recipe.hash_at(6)
    content["training"]["added"] = False
    assert Newer.model_validate(content).hash_at(6) != recipe.hash_at(6)
    assert tiny_recipe(seed=2).hash_at(6) != recipe.hash_at(6)


def test_a_budget_becomes_at_least_one_iteration() -> None:
    assert iterations_within(900, 1.0, 10) == 845
    assert iterations_within(1, 10, 5) == 1
