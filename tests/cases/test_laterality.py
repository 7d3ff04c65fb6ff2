"""Sides of the patient are recognised in names."""

import pytest

from medseg.cases.laterality import named_by_side, paired_left_right


@pytest.mark.parametrize("pair", [
    ("left kidney", "right kidney"), ("left_kidney", "kidney_right"), ("Left Kidney", "Right Kidney"),
    ("LeftKidney", "RightKidney"), ("kidney_l", "kidney_r"), ("KIDNEY_L", "KIDNEY_R"), ("hipLeft", "hipRight"),
    ("ctx-lh-cuneus", "ctx-rh-cuneus"), ("lung_upper_lobe_left", "lung_upper_lobe_right"), ("lungleft", "lungright"),
    ("left", "right"), ("Femur Sin", "Femur Dex"), ("rib_left_1", "rib_right_1"),
    ("left ventricle l", "right ventricle l"),
])  # fmt: skip
def test_pairs_are_found_in_any_spelling_and_order(pair):
    assert paired_left_right([pair[1], "liver", pair[0]]) == (pair,)


@pytest.mark.parametrize("names", [
    ("liver", "spleen"), ("Anterior", "Posterior"), ("left kidney", "right lung"), ("bright", "blight"),
    ("rib_left_1", "rib_right_2"), ("cleft", "clright lesion"), ("R", "G"), (),
])  # fmt: skip
def test_names_without_a_partner_are_no_pair(names):
    assert paired_left_right(names) == ()


def test_a_single_side_is_known_to_have_one():
    assert named_by_side(["left atrium", "liver", "kidney_r", "bright"]) == ("left atrium", "kidney_r")


def test_a_vertebra_has_no_side_but_a_left_and_a_right_first_rib_have():
    assert named_by_side(["vertebrae_L1", "vertebrae_L5", "L3", "liver"]) == ()
    assert named_by_side(["rib_L1", "rib_R1", "left_rib_L2", "lungleft", "lungright"]) == (
        "rib_L1", "rib_R1", "left_rib_L2", "lungleft", "lungright",
    )  # fmt: skip
