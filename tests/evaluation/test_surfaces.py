"""Surface distances against loops that follow the definition, and against DeepMind's surface-distance."""

import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg.evaluation.surface_elements import element_areas
from medseg.evaluation.surfaces import (
    average_distance_mm,
    boundary_f1,
    hausdorff_mm,
    measure_surfaces,
    neighbour_codes,
    surface_dice,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import surface_distance
    from surface_distance import lookup_tables

SPACINGS = ((1.0, 1.0, 1.0), (3.0, 0.7, 0.8), (0.5, 2.0, 1.1))


def blob(shape, seed, sigma=1.5, level=0.1):
    noise = np.random.default_rng(seed).standard_normal(shape)
    mask = ndimage.gaussian_filter(noise, sigma) > level * (0.3 if sigma else 1)
    mask[tuple(extent // 2 for extent in shape)] = True
    return mask


def elements_by_loops(mask, areas):
    """Corner positions in voxels and areas, one corner at a time."""
    found = {}
    for corner in product(*(range(extent + 1) for extent in mask.shape)):
        code = 0
        for bit, offset in enumerate(product((0, 1), repeat=mask.ndim)):
            place = tuple(c - o for c, o in zip(corner, offset, strict=True))
            inside = all(0 <= p < extent for p, extent in zip(place, mask.shape, strict=True)) and mask[place]
            code += int(inside) << bit
        if 0 < code < 2 ** (2**mask.ndim) - 1:
            found[corner] = areas[code]
    return found


def distances_by_loops(own, other, spacing):
    return [min(np.hypot.reduce((np.array(a) - b) * spacing) for b in map(np.array, other)) for a in own]


def package_distances(truth, prediction, spacing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return surface_distance.compute_surface_distances(truth, prediction, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_and_lengths_equal_the_published_tables(spacing):
    published = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(element_areas(spacing), published, rtol=1e-12)
    published = lookup_tables.create_table_neighbour_code_to_contour_length(spacing[1:])
    np.testing.assert_allclose(element_areas(spacing[1:]), published, rtol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 7, 8), (5, 1, 4)])
def test_distances_and_areas_equal_loops_over_corners(shape, spacing):
    truth, prediction = blob(shape, 1), blob(shape, 2)
    measured = measure_surfaces(prediction, truth, spacing)
    flat = shape[0] == 1
    scale = np.array(spacing[1:] if flat else spacing)
    areas = element_areas(tuple(scale))
    own, other = (elements_by_loops(mask[0] if flat else mask, areas) for mask in (truth, prediction))
    np.testing.assert_allclose(measured.truth_areas, list(own.values()))
    np.testing.assert_allclose(measured.prediction_areas, list(other.values()))
    np.testing.assert_allclose(measured.from_truth, distances_by_loops(own, other, scale), atol=1e-12)
    np.testing.assert_allclose(measured.from_prediction, distances_by_loops(other, own, scale), atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sigma", [0.0, 0.8, 2.0])
@pytest.mark.parametrize("shape", [(12, 18, 15), (1, 24, 20)])
def test_hd95_nsd_and_assd_equal_surface_distance(shape, sigma, spacing):
    truth = blob(shape, 3, sigma)
    for prediction in (blob(shape, 4, sigma), np.roll(truth, 1, axis=2), truth):
        measured = measure_surfaces(prediction, truth, spacing)
        planes = (truth, prediction, spacing) if shape[0] > 1 else (truth[0], prediction[0], spacing[1:])
        theirs = package_distances(*planes)
        assert hausdorff_mm(measured) == pytest.approx(surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-9)
        assert hausdorff_mm(measured, 100.0) == pytest.approx(
            surface_distance.compute_robust_hausdorff(theirs, 100.0), abs=1e-9
        )
        # No tolerance that a distance meets exactly: there the package counts by rounding, see the next test but one.
        for tolerance in (0.45, 1.05, 2.6):
            expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert surface_dice(measured, tolerance) == pytest.approx(expected, abs=1e-9)
            recall, precision = surface_distance.compute_surface_overlap_at_tolerance(theirs, tolerance)
            expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            assert boundary_f1(measured, tolerance) == pytest.approx(expected, abs=1e-9)
        there, back = surface_distance.compute_average_surface_distance(theirs)
        areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
        expected = (there * areas[0] + back * areas[1]) / sum(areas)
        assert average_distance_mm(measured) == pytest.approx(expected, abs=1e-9)


def test_two_parallel_plates_are_as_far_apart_as_their_shift():
    truth = np.zeros((20, 30, 30), bool)
    truth[5:8] = True
    measured = measure_surfaces(np.roll(truth, 4, axis=0), truth, (2.0, 1.0, 1.0))
    assert hausdorff_mm(measured) == 8.0
    assert surface_dice(measured, 1.0) < 0.2


def test_a_tolerance_that_a_distance_meets_exactly_counts_as_within():
    truth = np.zeros((8, 8, 8), bool)
    truth[2:5, 2:5, 2:5] = True
    shifted = np.roll(truth, 3, axis=0)
    assert surface_dice(measure_surfaces(shifted, truth, (0.1, 0.1, 0.1)), 0.3) == pytest.approx(1)
    # 0.7² + (3 * 0.8)² = 2.5², though not in floating point.
    shifted = np.roll(truth, (1, 3), axis=(1, 2))
    assert np.hypot(0.7, 3 * 0.8) > 2.5 or np.sqrt(0.7**2 + (3 * 0.8) ** 2) > 2.5
    assert surface_dice(measure_surfaces(shifted, truth, (1.0, 0.7, 0.8)), 2.5) == pytest.approx(1)


def test_nsd_pools_both_surfaces_and_boundary_f1_weighs_them_alike():
    truth = np.zeros((20, 20, 20), bool)
    truth[2:6, 2:6, 2:6] = True
    prediction = truth.copy()
    prediction[9:19, 9:19, 9:19] = True
    measured = measure_surfaces(prediction, truth, (1.0, 1.0, 1.0))
    small, both = measured.truth_areas.sum(), measured.prediction_areas.sum()
    precision = small / both
    assert surface_dice(measured, 0.0) == pytest.approx(2 * small / (small + both))
    assert boundary_f1(measured, 0.0) == pytest.approx(2 * precision / (precision + 1))
    assert measured.from_truth.max() == 0


def test_in_a_plane_the_faces_of_the_slice_are_not_surface():
    truth = np.zeros((1, 20, 20), bool)
    truth[0, 4:14, 4:14] = True
    thick = measure_surfaces(truth, truth, (50.0, 1.0, 1.0))
    assert thick.truth_areas.sum() == pytest.approx(36 + 4 * np.sqrt(0.5))


def test_a_map_and_a_tree_of_points_give_the_same_distances(monkeypatch):
    rng = np.random.default_rng(0)
    dense, other = rng.random((2, 14, 14, 14)) < 0.3
    by_map = measure_surfaces(dense, other, (1.5, 0.7, 1.0))
    padded = np.pad(dense, 40), np.pad(other, 40)
    by_tree = measure_surfaces(*padded, (1.5, 0.7, 1.0))
    np.testing.assert_allclose(by_map.from_truth, by_tree.from_truth, atol=1e-12)
    np.testing.assert_allclose(by_map.from_prediction, by_tree.from_prediction, atol=1e-12)


def test_codes_of_a_single_voxel_are_each_bit_once():
    codes = neighbour_codes(np.ones((1, 1, 1), bool))
    assert sorted(codes.ravel().tolist()) == [1 << bit for bit in range(8)]


MASKS = arrays(bool, (3, 5, 4)).filter(lambda mask: mask.any())


@settings(max_examples=30, deadline=None)
@given(MASKS, MASKS, st.sampled_from(SPACINGS), st.floats(0, 4))
def test_every_number_is_symmetric_and_in_its_range(first, second, spacing, tolerance):
    there, back = measure_surfaces(first, second, spacing), measure_surfaces(second, first, spacing)
    for number in (hausdorff_mm, average_distance_mm):
        assert number(there) == pytest.approx(number(back), abs=1e-9)
        assert 0 <= number(there) <= np.hypot.reduce(np.array([4, 6, 5]) * spacing)
    for number in (surface_dice, boundary_f1):
        assert number(there, tolerance) == pytest.approx(number(back, tolerance), abs=1e-9)
        assert 0 <= number(there, tolerance) <= 1 + 1e-12
    assert average_distance_mm(there) <= hausdorff_mm(there, 100.0) + 1e-9


@settings(max_examples=20, deadline=None)
@given(MASKS, st.sampled_from(SPACINGS))
def test_a_mask_agrees_with_itself(mask, spacing):
    measured = measure_surfaces(mask, mask, spacing)
    assert hausdorff_mm(measured, 100.0) == average_distance_mm(measured) == 0
    assert surface_dice(measured, 0.0) == pytest.approx(1)
    assert boundary_f1(measured, 0.0) == pytest.approx(1)
