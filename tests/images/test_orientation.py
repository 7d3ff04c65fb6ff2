"""Axis codes and the turn to the canonical orientation, held against nibabel's."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.images.orientation import axis_codes, left_right_axis, to_canonical

CANONICAL = np.array([[0, 0, 1.0, 0], [0, 1.2, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1]])


def test_a_canonical_array_stays_as_it_is():
    assert to_canonical(CANONICAL) == ((0, 1, 2), (False, False, False))
    assert axis_codes(CANONICAL) == "SAR"
    assert left_right_axis(CANONICAL) == 2


def test_an_lps_array_turns_two_axes_round():
    assert to_canonical(CANONICAL * [[-1], [-1], [1], [1]]) == ((0, 1, 2), (False, True, True))
    assert axis_codes(CANONICAL * [[-1], [-1], [1], [1]]) == "SPL"


def test_a_sagittal_array_names_its_left_right_axis():
    sagittal = CANONICAL[:, [2, 0, 1, 3]]
    assert axis_codes(sagittal) == "RSA"
    assert left_right_axis(sagittal) == 0
    assert to_canonical(sagittal)[0] == (1, 2, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.1))
def test_oblique_axes_get_the_codes_that_nibabel_gives_where_no_axis_is_in_doubt(quaternion):
    rotation = nibabel.quaternions.quat2mat(quaternion)
    if np.abs(rotation).max(axis=0).min() < 0.8:  # an axis lies between two directions: either answer is right
        return
    affine = np.eye(4)
    affine[:3, :3] = rotation * [1.0, 1.2, 2.5]
    assert axis_codes(affine[:, [2, 1, 0, 3]]) == "".join(nibabel.aff2axcodes(affine))[::-1]


@pytest.mark.parametrize("degrees", [0, 30, 44, 46, 90, 135, 225])
def test_every_axis_is_used_once_however_oblique_the_scan(degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ CANONICAL[:3, :3]
    assert sorted(to_canonical(affine)[0]) == [0, 1, 2]
