"""Small and rare structures are found in the fingerprint, and what is meant for them is said or planned."""

import pytest

from medseg.planning.plan import Machine, SamplingPlan
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan
from medseg.planning.small import as_words, describe_small, find_small, sampling_for

NAMES = ("liver", "lesion", "left kidney", "cyst", "nothing")


@pytest.fixture
def labels(make_labels):
    return make_labels(NAMES)


@pytest.fixture
def fingerprint(make_fingerprint):
    """20 cases of a million voxels: a tiny lesion and left kidney, a cyst in one case, and what is nowhere."""
    found = make_fingerprint([(1, 1, 1)] * 20, [(100, 100, 100)] * 20, "canonical")
    cases = [
        case.model_copy(update={"label_voxels": (900_000, 50_000, 80, 400, 9_000 if number == 0 else 0, 0)})
        for number, case in enumerate(found.cases)
    ]
    return found.model_copy(update={"cases": tuple(cases)})


def test_structures_under_the_share_and_structures_of_few_cases_are_found(fingerprint, labels):
    small = find_small(fingerprint, labels, 0.0005)
    assert [(one.name, one.is_small, one.cases) for one in small] == [
        ("lesion", True, 20),
        ("left kidney", True, 20),
        ("cyst", False, 1),
    ]
    assert describe_small(small, 20) == (
        "lesion takes 0.008 % of the volume, left kidney takes 0.04 % of the volume, cyst is in 1 of 20 cases"
    )
    assert find_small(fingerprint, labels, 0.0001)[0].name == "lesion"


def test_a_structure_with_a_side_is_never_copied_to_the_other(fingerprint, labels):
    sampling = sampling_for(find_small(fingerprint, labels, 0.0005))
    assert sampling.rare == ("lesion", "cyst")
    assert sampling.balanced and sampling.size_aware and sampling.copy_paste > 0
    assert as_words(sampling).endswith('sampling.rare=["lesion","cyst"]\'')
    only_sided = [one for one in find_small(fingerprint, labels, 0.0005) if one.name == "left kidney"]
    assert sampling_for(only_sided).copy_paste == 0


def test_the_plan_says_it_or_takes_it_as_the_preset_asks(fingerprint, labels):
    preset = load_preset("default")
    said = make_plan(fingerprint, labels, preset, Machine(device="any"))
    assert said.training.sampling == SamplingPlan()
    assert said.reasons["training.sampling.copy_paste"].startswith("off; may help, since lesion takes 0.008 %")
    applied = make_plan(
        fingerprint, labels, preset.model_copy(update={"small_structures": "apply"}), Machine(device="any")
    )
    assert applied.training.sampling.rare == ("lesion", "cyst")
    assert applied.reasons["training.sampling.balanced"].startswith("lesion takes 0.008 %")


def test_nnunets_plan_stays_nnunets(fingerprint, labels):
    stored = fingerprint.model_copy(update={"orientation": "stored"})
    plan = make_plan(stored, labels, load_preset("nnunet"), Machine(device="any"))
    assert plan.training.sampling == SamplingPlan()
    assert "lesion" not in plan.reasons["training.sampling.balanced"]
