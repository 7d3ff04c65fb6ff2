"""key=value words change a Plan, are validated, and leave their mark in its reasons."""

import pytest

from medseg.errors import PlanError, SettingsError
from medseg.planning.override import override_plan
from medseg.planning.plan import Machine, Plan
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan


@pytest.fixture
def plan(make_fingerprint, make_labels):
    fingerprint = make_fingerprint([(1, 1, 1)] * 200, [(36, 50, 35)] * 200)
    return make_plan(fingerprint, make_labels(3), load_preset("nnunet"), Machine(device="any"))


def test_words_reach_the_configuration_and_the_training(plan):
    words = {"patch_size": "[32,48,32]", "batch_size": "3", "optimizer.learning_rate": "1e-3", "seed": "7"}
    changed = override_plan(plan, None, words)
    full = changed.configurations["3d_fullres"]
    assert (full.patch_size, full.batch_size) == ((32, 48, 32), 3)
    assert changed.training.optimizer.learning_rate == 1e-3
    assert changed.training.optimizer.name == "sgd"
    assert changed.training.seed == 7
    assert changed.reasons["configurations.3d_fullres.patch_size"] == "set by the user: patch_size=[32,48,32]"
    assert changed.reasons["training.optimizer.learning_rate"].startswith("set by the user")
    assert changed.configurations["2d"] == plan.configurations["2d"]


def test_a_changed_plan_survives_the_file(plan, tmp_path):
    changed = override_plan(plan, "2d", {"network.base_features": "16", "budget": "15min"})
    assert changed.configurations["2d"].network.features == (16, 32, 64, 128)
    assert changed.training.budget == 900
    changed.save(tmp_path / "plan.yaml")
    again = Plan.load(tmp_path / "plan.yaml")
    assert again == changed
    assert again.reasons["configurations.2d.network.features"] == "set by the user: network.base_features=16"


def test_no_words_change_nothing(plan):
    assert override_plan(plan, None, {}) == plan


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"patchsize": "[32,32,32]"}, "Did you mean 'patch_size'"),
        ({"optimizer.learnin_rate": "1"}, "Did you mean 'optimizer.learning_rate'"),
        ({"patch_size": "[33,48,32]"}, "33 on axis z is not a multiple of 8; try 32"),
        (
            {"patch_size": "[8,8,8]"},
            r"single voxel in the coarsest stage, which can't be normalised; try \[16, 16, 16\]",
        ),
        ({"patch_size": "[32,32]"}, "patch_size"),
        ({"batch_size": "0"}, "batch_size"),
        ({"batch_size": "two"}, "batch_size"),
        ({"network.features": "[8,16,32]"}, "4 stages, but features has 3"),
        ({"network.base_features": "0"}, "whole number above 0"),
        ({"network.base_features": "8", "network.features": "[8,16,32,64]"}, "set the same thing"),
        ({"foreground_share": "2"}, "foreground_share"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(plan, words, sentence):
    with pytest.raises(SettingsError, match=sentence):
        override_plan(plan, None, words)


def test_an_unknown_configuration_or_network_is_named(plan):
    with pytest.raises(PlanError, match="no configuration '3d_lowres'"):
        override_plan(plan, "3d_lowres", {"batch_size": "2"})
    with pytest.raises(PlanError, match="Did you mean 'unet'"):
        override_plan(plan, None, {"network.name": "unett"})
