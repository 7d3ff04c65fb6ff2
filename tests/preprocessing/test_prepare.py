"""Preparation turns, crops, normalises and resamples; the Grid leads back."""

import itertools

import numpy as np
import pytest

from medseg.images.volume import Volume
from medseg.preprocessing.grid import orient
from medseg.preprocessing.prepare import prepare_image, prepare_labels

from tiny import tiny_plan

PLAN = tiny_plan()
CONFIGURATION = PLAN.configurations["3d_fullres"]
SIGNED_PERMUTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
)


def _canonical() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An asymmetric phantom in RAS: image, labels, affine; spacing 1, 1, 1 mm."""
    random = np.random.default_rng(3)
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[1:3, 2:4, 5:9] = 1
    labels[3:5, 5:7, 1:3] = 2
    image = random.normal(50, 5, labels.shape).astype(np.float32) + 30 * labels
    affine = np.array([[0, 0, 1.0, -4], [0, 1, 0, 7], [1, 0, 0, 2], [0, 0, 0, 1]])
    return image, labels, affine


def _stored(permutation: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[Volume, Volume]:
    """The phantom as a file with other axes would store it: the same place in the world for every voxel."""
    image, labels, affine = _canonical()
    # Stored axis i runs along canonical axis permutation[i], perhaps backwards.
    to_canonical = np.zeros((4, 4))
    to_canonical[3, 3] = 1
    for stored, (axis, flipped) in enumerate(zip(permutation, flips, strict=True)):
        to_canonical[axis, stored] = -1 if flipped else 1
        to_canonical[axis, 3] = labels.shape[axis] - 1 if flipped else 0
    a, b, c = permutation
    turned = (orient(image, (a, b, c), flips), orient(labels, (a, b, c), flips))
    world = affine @ to_canonical
    return Volume(turned[0][None].copy(), world), Volume(turned[1].copy(), world)


@pytest.mark.parametrize(("permutation", "flips"), SIGNED_PERMUTATIONS)
def test_all_48_orientations_become_the_same_array_and_go_back(permutation, flips) -> None:
    image, labels, _ = _canonical()
    stored_image, stored_labels = _stored(permutation, flips)
    prepared, grid = prepare_image(stored_image, PLAN, CONFIGURATION)
    expected, _ = prepare_image(Volume(image[None], _canonical()[2]), PLAN, CONFIGURATION)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
    indices = prepare_labels(stored_labels, grid, 3)
    np.testing.assert_array_equal(indices, labels)
    np.testing.assert_array_equal(grid.restore_orientation(indices), stored_labels.array)


def test_stored_orientation_moves_nothing() -> None:
    stored_image, _ = _stored((2, 0, 1), (True, False, True))
    plan = PLAN.model_copy(update={"orientation": "stored"})
    _, grid = prepare_image(stored_image, plan, CONFIGURATION)
    assert grid.permutation == (0, 1, 2)
    assert grid.flips == (False, False, False)


def test_the_plans_axis_order_comes_after_the_orientation() -> None:
    image, _, affine = _canonical()
    plan = PLAN.model_copy(update={"axis_order": (2, 0, 1)})
    prepared, grid = prepare_image(Volume(image[None], affine), plan, CONFIGURATION)
    assert prepared.shape[1:] == (10, 6, 8)
    assert grid.oriented_shape == (10, 6, 8)


def test_zeros_around_are_cropped_and_the_box_is_noted() -> None:
    image, _, affine = _canonical()
    padded = np.zeros((10, 12, 13), np.float32)
    padded[2:8, 1:9, 3:13] = image
    prepared, grid = prepare_image(Volume(padded[None], affine), PLAN, CONFIGURATION)
    assert grid.crop_lower == (2, 1, 3)
    assert grid.cropped_shape == prepared.shape[1:] == (6, 8, 10)


def test_spacing_is_taken_from_the_affine_and_in_2d_slices_stay_slices() -> None:
    image, labels, affine = _canonical()
    scaled = affine @ np.diag([4.0, 2.0, 0.5, 1.0])
    prepared, grid = prepare_image(Volume(image[None], scaled), PLAN, CONFIGURATION)
    assert prepared.shape[1:] == (24, 16, 5)
    assert grid.cropped_spacing == (4.0, 2.0, 0.5)
    assert set(np.unique(prepare_labels(Volume(labels, scaled), grid, 3))) == {0, 1, 2}
    flat = tiny_plan(2)
    prepared, grid = prepare_image(Volume(image[None], scaled), flat, flat.configurations["2d"])
    assert prepared.shape[1:] == (6, 16, 5)
    assert grid.prepared_spacing == (4.0, 1.0, 1.0)
