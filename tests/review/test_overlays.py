"""Overlays cover what they should, in the colours that were chosen."""

import numpy as np

from medseg.evaluation.palette import COLORS
from medseg.review.overlays import (
    BOTH,
    ONLY_FIRST,
    ONLY_SECOND,
    colors_by_index,
    heat_colors,
    heat_legend,
    heat_range,
    paint_difference,
    paint_heat,
    paint_labels,
)
from medseg.review.slices import Frame

from tiny import TABLE, table_of

FRAME = Frame("axial", (1, 20, 20), (1.0, 1.0, 1.0), (0, 10, 10), size=20)


def canvas() -> np.ndarray:
    return np.full((20, 20, 3), 50, np.uint8)


def squares() -> np.ndarray:
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 2:10, 2:10], labels[0, 12:18, 12:18] = 1, 2
    return labels


def test_only_structures_that_are_on_are_painted_and_in_their_own_colour() -> None:
    picture = canvas()
    paint_labels(picture, squares(), FRAME, colors_by_index(TABLE, {"ball"}, {"ball": (10, 20, 30)}), 1.0)
    assert (picture[2:10, 2:10] == (10, 20, 30)).all()
    assert (picture[12:18, 12:18] == 50).all()


def test_opacity_mixes_and_zero_hides() -> None:
    half, none = canvas(), canvas()
    paint_labels(half, squares(), FRAME, colors_by_index(TABLE), 0.5)
    paint_labels(none, squares(), FRAME, colors_by_index(TABLE), 0.0)
    assert np.abs(half[5, 5].astype(float) - (np.array(COLORS[0]) + 50) / 2).max() <= 1
    assert (none == 50).all()


def test_an_outline_leaves_the_inside_free_and_never_leaves_its_structure() -> None:
    picture = canvas()
    paint_labels(picture, squares(), FRAME, colors_by_index(TABLE), 0.2, outline=True)
    changed = (picture != 50).any(axis=2)
    assert changed[2, 2:10].all() and changed[2:10, 2].all()
    assert not changed[5:7, 5:7].any()
    assert not changed[squares()[0] == 0].any()


def test_of_regions_that_overlap_the_later_one_lies_on_top_and_can_be_taken_away() -> None:
    regions = [
        {"name": "whole", "labels": ["structure 1", "structure 2"], "written": 1},
        {"name": "core", "labels": ["structure 2"], "written": 2},
    ]
    table = table_of(2, regions=regions)
    palette, drawn = colors_by_index(table)
    assert drawn.tolist() == [False, True, True]
    assert palette[2].tolist() == list(COLORS[1])
    palette, _ = colors_by_index(table, {"whole"})
    assert palette[2].tolist() == list(COLORS[0])


def test_heat_leaves_the_low_grey_and_grows_brighter_with_the_value() -> None:
    picture, values = canvas(), np.zeros((1, 20, 20), np.float32)
    values[0, :, 10:] = np.linspace(0.1, 1, 10)
    paint_heat(picture, values, FRAME, 0.0, 1.0, 1.0)
    assert (picture[:, :8] == 50).all()
    brightness = heat_colors(np.linspace(0, 1, 30)).sum(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert heat_legend(64, 4).shape == (4, 64, 3)


def test_the_range_of_a_map_follows_its_values_and_an_empty_one_has_a_range_too() -> None:
    assert heat_range(np.zeros(5)) == (0.0, 1.0)
    low, high = heat_range(np.array([0, 0, 0.2, 0.4]))
    assert low == 0.0
    assert 0.39 < high <= 0.4


def test_a_difference_tells_agreement_from_either_side() -> None:
    picture, first, second = canvas(), np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    first[:, :12], second[:, 8:] = True, True
    paint_difference(picture, first, second, FRAME, 1.0)
    assert tuple(picture[5, 3]) == ONLY_FIRST
    assert tuple(picture[5, 10]) == BOTH
    assert tuple(picture[5, 15]) == ONLY_SECOND
