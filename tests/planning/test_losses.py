"""Weighted sums of losses as users write them, and class weights from what was measured."""

import numpy as np
import pytest

from medseg.errors import SettingsError
from medseg.planning.class_weights import settle_class_weights
from medseg.planning.plan import TrainingPlan
from medseg.settings import build

from tiny import table_of


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("dice_ce", "dice_ce"),
        ("[dice_ce, 0.5*boundary]", "dice_ce + 0.5*boundary"),
        ('["dice_ce","0.5 * boundary"]', "dice_ce + 0.5*boundary"),
        ("2*tversky+1e-2*hausdorff", "2*tversky + 0.01*hausdorff"),
    ],
)
def test_a_weighted_sum_is_stored_in_one_form_and_read_back(text, stored):
    plan = build(TrainingPlan, {"loss": text})
    assert plan.loss == stored
    assert TrainingPlan.model_validate(plan.model_dump()) == plan
    assert TrainingPlan.model_validate({"loss": ["dice_ce", "0.5*focal"]}).loss == "dice_ce + 0.5*focal"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[dice_ce,0.5*boundry]", "There is no loss 'boundry'. Did you mean 'boundary'?"),
        ("nonsense", "Choose one of: dice_ce"),
        ("[dice_ce,-1*focal]", "The weight of loss 'focal' should be a number above 0"),
        ("[dice_ce,nan*focal]", "The weight of loss 'focal' should be a number above 0"),
        ("[dice_ce,half*focal]", "The weight of loss 'focal' should be a number above 0"),
        ("[focal,focal]", "named twice"),
        ("[boundary,skeleton_recall]", r"Put it beside another loss: \[dice_ce, 0.5\*boundary, 0.5\*skeleton_recall\]"),
        ("3", "There is no loss '3'"),
        ("", "There is no loss ''"),
    ],
)
def test_what_is_wrong_with_a_loss_is_said_in_one_sentence(text, said):
    with pytest.raises(SettingsError, match=said):
        build(TrainingPlan, {"loss": text})


@pytest.fixture
def measured(make_fingerprint):
    """Two cases; structure 2 is rare, and the second case lacks it."""
    found = make_fingerprint([(1, 1, 1)] * 2, [(10, 10, 10)] * 2)
    voxels = ((900, 90, 10), (980, 20, 0))
    cases = [case.model_copy(update={"label_voxels": v}) for case, v in zip(found.cases, voxels, strict=True)]
    return found.model_copy(update={"cases": tuple(cases)})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("inverse", [1 / 1880, 1 / 110, 1 / 10]),
        ("median", [0.055 / 0.94, 1, 0.055 / 0.01]),
        ("log", [1 / np.log(1.02 + f) for f in (0.94, 0.055, 0.005)]),
        ("effective", [1 / (1 - 0.9999**n) for n in (940, 55, 5)]),
    ],
)
def test_class_weights_follow_the_papers(measured, kind, expected):
    (found,) = settle_class_weights(kind, measured, table_of(2))
    assert found == pytest.approx(np.array(expected) / np.mean(expected), rel=1e-5)
    assert found[0] < found[1] < found[2]


def test_class_weights_of_a_region_weigh_inside_against_outside(measured):
    table = table_of(2, regions=[{"name": "all", "labels": ["structure 1", "structure 2"], "written": 1}])
    (found,) = settle_class_weights("inverse", measured, table)
    assert found[1] / found[0] == pytest.approx(1880 / 120, rel=1e-5)
    assert settle_class_weights("none", measured, table) is None
