"""Pictures: which slices they show, how these lie, and that a readable PNG comes out."""

from itertools import permutations, product

import numpy as np
import pytest
from PIL import Image as Png

from medseg.cases.labels import Label, LabelTable
from medseg.errors import MedsegError
from medseg.evaluation.palette import COLORS, color_of, colors_of, topmost
from medseg.evaluation.pictures import draw_case, draw_comparison, draw_curves, draw_scores
from medseg.evaluation.scores import score_case, summarise
from medseg.evaluation.views import choose_views, grey_range, turned

from tiny import nested_regions, table_named, table_of

TWO, THREE = table_named("one", "two"), table_named("one", "two", "nowhere")

RAS = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def body():
    labels = np.zeros((14, 20, 24), np.uint8)
    labels[3:10, 6:14, 4:12] = 1
    labels[8:10, 15:18, 15:20] = 2
    return labels


def pixels_of(path):
    with Png.open(path) as png:
        png.load()
        return np.asarray(png.convert("RGB"))


def test_a_turned_array_has_head_front_and_the_patients_right_first():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[-1, -1, -1] = 1  # superior, anterior, right in RAS
    assert turned(labels, RAS)[0, 0, 0] == 1


def test_every_stored_orientation_gives_the_same_views():
    labels, spacing = body(), (3.0, 1.0, 2.0)
    expected = [(view.name, view.place, view.size_mm) for view in choose_views(turned(labels, RAS), spacing, RAS)]
    for order in permutations(range(3)):
        for flips in product((1, -1), repeat=3):
            stored = labels.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
            affine = np.zeros((4, 4))
            affine[3, 3] = 1
            for place, (axis, flip) in enumerate(zip(order, flips, strict=True)):
                affine[2 - axis, place] = flip * spacing[axis]
            steps = tuple(spacing[axis] for axis in order)
            page = turned(stored, affine)
            np.testing.assert_array_equal(page, turned(labels, RAS))
            assert [(v.name, v.place, v.size_mm) for v in choose_views(page, steps, affine)] == expected


def test_the_slice_with_most_of_the_structures_is_shown():
    views = choose_views(body(), (1.0, 1.0, 1.0), None)
    assert [view.name for view in views] == ["axis z", "axis y", "axis x"]
    assert views[0].place in (8, 9)
    assert all(view.marks is None for view in views)


def test_pixels_keep_the_spacing():
    axial, coronal, sagittal = choose_views(body(), (5.0, 1.0, 2.0), RAS)
    assert (axial.pixel_mm, coronal.pixel_mm, sagittal.pixel_mm) == ((1.0, 2.0), (5.0, 2.0), (5.0, 1.0))
    assert coronal.marks == ("S", "I", "R", "L")


def test_a_2d_case_has_one_view():
    assert len(choose_views(body()[8:9], (1.0, 1.0, 1.0), None)) == 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 30), (30, 1, 1)])
def test_a_line_of_voxels_is_drawn_as_well(tmp_path, shape):
    labels = np.ones(shape, np.uint8)
    image = np.arange(labels.size, dtype=np.float32).reshape(shape)
    assert max(choose_views(labels, (1.0, 1.0, 1.0), None)[0].cut(labels).shape) == max(shape)
    draw_comparison(tmp_path / "a.png", image, labels, labels, (1.0, 1.0, 1.0), ["a"])
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_levels_of_grey_follow_the_structures():
    image = np.full((14, 20, 24), -1000.0)
    image[body() > 0] = np.linspace(20, 80, int((body() > 0).sum()))
    low, high = grey_range(image, body())
    assert -60 < low < 20
    assert 79 <= high < 140


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize("affine", [RAS, None])
@pytest.mark.parametrize("flat", [True, False])
def test_a_comparison_is_a_png_with_the_structures_colours(tmp_path, with_image, with_truth, affine, flat):
    labels = body()[8:9] if flat else body()
    image = np.random.default_rng(0).normal(size=labels.shape) if with_image else None
    path = tmp_path / "picture.png"
    draw_comparison(
        path, image, labels if with_truth else None, labels, (2.0, 1.0, 1.0), ("a_$1$", "_b"), title="x", affine=affine
    )
    pixels = pixels_of(path)
    assert min(pixels.shape[:2]) > 100
    for color in COLORS[:2]:
        assert (np.abs(pixels.astype(int) - color).max(axis=2) < 4).any()


def test_a_comparison_without_any_structure_shows_the_middle(tmp_path):
    empty = np.zeros((6, 7, 8), np.uint8)
    draw_comparison(tmp_path / "empty.png", np.zeros(empty.shape), empty, empty, (1.0, 1.0, 1.0), ("one",))
    assert pixels_of(tmp_path / "empty.png").size


def test_more_structures_than_the_legend_holds_are_counted(tmp_path):
    labels = np.arange(6 * 8 * 8).reshape(6, 8, 8).astype(np.uint16) % 40
    names = [f"structure {index}" for index in range(1, 40)]
    draw_comparison(tmp_path / "many.png", None, labels, labels, (1.0, 1.0, 1.0), names)
    assert pixels_of(tmp_path / "many.png").size


def test_pictures_are_the_same_bytes_every_time(tmp_path):
    case = score_case(np.roll(body(), 1, 1), body(), (1.0, 1.0, 1.0), TWO, case="a")
    for name in ("first.png", "second.png"):
        draw_case(tmp_path / name, None, body(), np.roll(body(), 1, 1), (1.0, 1.0, 1.0), case, TWO, RAS)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_curves_are_drawn_with_gaps_and_without_rows(tmp_path):
    rows = [{"iteration": float(i), "loss": 1 / i, "dice": 0.1 * i, "learning_rate": 0.01} for i in range(1, 8)]
    rows[0]["dice"] = None
    rows[3]["held_out_dice"] = 0.5
    for some in (rows, []):
        draw_curves(tmp_path / "curves.png", some)
        assert pixels_of(tmp_path / "curves.png").shape[1] > 1000
    draw_curves(tmp_path / "stopped.png", rows, [5])
    draw_curves(tmp_path / "curves.png", rows)
    assert not np.array_equal(pixels_of(tmp_path / "stopped.png"), pixels_of(tmp_path / "curves.png"))


def test_scores_are_drawn_with_missed_and_absent_structures(tmp_path):
    missed = body()
    missed[missed == 2] = 0
    cases = [
        score_case(np.roll(body(), 1, 1), body(), (1.0, 1.0, 1.0), THREE, case="a"),
        score_case(missed, body(), (1.0, 1.0, 1.0), THREE, case="b"),
    ]
    draw_scores(tmp_path / "scores.png", summarise(cases))
    assert pixels_of(tmp_path / "scores.png").size


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsegError, match="Could not write"):
        draw_curves(tmp_path / "file" / "curves.png", [])


def test_default_colours_differ_and_given_ones_are_kept():
    assert len({color_of(index) for index in range(1, 118)}) == 117
    table = LabelTable(labels=(Label(name="a", value=1, color=(1, 2, 3)), Label(name="b", value=2)))
    assert colors_of(table.targets) == ((1, 2, 3), COLORS[1])


def test_the_innermost_region_lies_on_top_and_what_nobody_annotated_below_all():
    table = table_of(3, regions=nested_regions(3)[1:], ignore=9)
    labels = np.array([[[0, 1, 2, 3, 4]]], np.uint8)
    assert topmost(labels, table).ravel().tolist() == [0, 0, 1, 2, 0]
    assert topmost(labels[..., :4], table_of(3)).ravel().tolist() == [0, 1, 2, 3]


def test_what_nobody_annotated_is_veiled(tmp_path):
    table = table_of(2, ignore=9, regions=nested_regions(2))
    pixels = []
    for first in (24, 16):
        truth = body()
        truth[:, :, first:] = table.ignore_index
        scores = score_case(truth % 3, body(), (1.0, 1.0, 1.0), table, case="a")
        draw_case(tmp_path / "a.png", body() * 50.0, truth, body(), (1.0, 1.0, 1.0), scores, table, RAS)
        pixels.append(pixels_of(tmp_path / "a.png").astype(int))
    greyer = (np.ptp(pixels[1], axis=2) < np.ptp(pixels[0], axis=2) - 20).mean()
    assert 0.001 < greyer < 0.2
