"""Measurements of structures are what geometry says they are."""

import numpy as np
import pytest

from medseg.evaluation.measurements import largest_diameter_mm, measure_structure


def ball(radius: float, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    size = [int(2 * radius / step) + 5 for step in spacing]
    grid = np.indices(size) - np.reshape([n // 2 for n in size], (3, 1, 1, 1))
    return (grid**2 * np.reshape(spacing, (3, 1, 1, 1)) ** 2).sum(0) <= radius**2, np.diag([*spacing, 1.0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 1.2)])
def test_a_ball_has_its_volume_and_diameter(spacing):
    mask, affine = ball(15, spacing)
    measured = measure_structure("ball", mask, affine)
    assert measured is not None
    assert measured.volume_ml == pytest.approx(4 / 3 * np.pi * 15**3 / 1000, rel=0.02)
    assert measured.largest_diameter_mm == pytest.approx(30, abs=max(spacing))
    assert measured.parts == 1


def test_a_single_voxel_is_as_long_as_its_longest_side():
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 3, 4] = True
    assert largest_diameter_mm(mask, np.diag([5.0, 1.0, 2.0, 1.0])) == pytest.approx(5)


def test_a_diagonal_line_through_an_oblique_grid_is_measured_in_millimetres():
    mask = np.zeros((9, 9, 9), bool)
    mask[range(9), range(9), range(9)] = True
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 1.0, 1.0])
    corner = np.array([8 * 2, 8, 8])
    assert largest_diameter_mm(mask, affine) == pytest.approx(np.linalg.norm(corner), abs=2.0)


def test_intensities_and_entropy_are_those_inside_the_structure():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1:3] = True
    image = np.arange(128, dtype=np.float32).reshape(2, 4, 4, 4)
    measured = measure_structure("x", mask, np.eye(4), image, ("a", "b"), image[0] / 100)
    assert measured is not None
    assert [(part.channel, part.mean, part.minimum, part.maximum) for part in measured.intensities] == [
        ("a", 21.5, 21, 22),
        ("b", 85.5, 85, 86),
    ]
    assert measured.mean_entropy_nats == pytest.approx(0.215)
    assert measured.centre_mm == (1, 1, 1.5)


def test_what_is_not_there_is_not_measured():
    assert measure_structure("x", np.zeros((2, 2, 2), bool), np.eye(4)) is None
