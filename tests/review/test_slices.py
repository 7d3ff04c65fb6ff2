"""What is drawn lies where it should: sides are tested in pixels, for every way a file can be stored."""

from pathlib import Path

import numpy as np
import pytest
from tiny_review import ORIENTATIONS, SHAPE, SPACING, patient, stored, write_patient

from medseg.review.cache import open_case
from medseg.review.slices import PLANES, Frame, draw_grey, draw_marks
from medseg.review.view import View, draw_plane, frame_of
from medseg.review.windows import Window

_WINDOW = Window(centre=150, width=300)


def brightest(picture: np.ndarray) -> tuple[float, float]:
    """Where the brightest pixels lie, as shares of height and width."""
    rows, columns = np.nonzero(picture[:, :, 0] == picture.max())
    return (rows.mean() + 0.5) / picture.shape[0], (columns.mean() + 0.5) / picture.shape[1]


@pytest.mark.parametrize("orientation", ORIENTATIONS[::3], ids=lambda one: f"{one[0]}{[int(flip) for flip in one[1]]}")
def test_the_patients_right_front_and_head_are_left_top_and_top_of_the_page(orientation, tmp_path: Path) -> None:
    one = open_case(write_patient(tmp_path, stored(patient(), *orientation)), tmp_path / "cache")
    assert one.shape == SHAPE
    assert one.spacing == SPACING
    image = np.asarray(one.image[0])
    (right,), (front,), (head,) = (np.argwhere(image == value) for value in (100, 200, 300))
    for plane, spot, seen in (
        ("axial", right, "left"),
        ("coronal", right, "left"),
        ("axial", front, "top"),
        ("sagittal", front, "left"),
        ("coronal", head, "top"),
        ("sagittal", head, "top"),
    ):
        frame = Frame(plane, one.shape, one.spacing, tuple(int(at) for at in spot), 240)
        down, across = brightest(draw_grey(image, frame, _WINDOW))
        middle = [(extent - 1) / 2 for extent in one.shape]
        assert (across if seen == "left" else down) < 0.5, (plane, seen)
        assert all(at != centre for at, centre in zip(spot, middle, strict=True) if centre % 1 == 0)


def test_the_labels_lie_on_what_they_belong_to_in_every_plane(tmp_path: Path) -> None:
    one = open_case(write_patient(tmp_path, patient()), tmp_path / "cache")
    finding = one.case.findings[0]
    place = tuple(int(at) for at in np.argwhere(np.asarray(one.labels(finding)) == 1)[0])
    for plane in PLANES:
        bare = draw_plane(one, View(_WINDOW, place, cross=False), plane, 240)
        covered = draw_plane(
            one, View(_WINDOW, place, cross=False, finding=finding, opacity=1.0, shown=frozenset({"ball"})), plane, 240
        )
        changed = np.argwhere((bare != covered).any(axis=2)).mean(axis=0)
        row, column = frame_of(one, View(_WINDOW, place), plane, 240).pixel_of(place)
        assert np.abs(changed - [row, column]).max() < 2


def test_pixels_are_square_in_millimetres() -> None:
    for plane, (down, right) in zip(PLANES, ((1, 2), (0, 2), (0, 1)), strict=True):
        rows, columns = Frame(plane, SHAPE, SPACING, (0, 0, 0), 480).pixels
        assert max(rows, columns) == 480
        expected = SHAPE[down] * SPACING[down] / (SHAPE[right] * SPACING[right])
        assert rows / columns == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("zoom", [1.0, 2.0, 5.0])
def test_a_click_on_a_voxels_middle_gives_that_voxel(zoom: float) -> None:
    for plane in PLANES:
        for voxel in ((0, 0, 0), (4, 6, 5), (7, 11, 9)):
            frame = Frame(plane, SHAPE, SPACING, voxel, 480, zoom)
            row, column = frame.pixel_of(voxel)
            rows, columns = frame.pixels
            assert frame.voxel_at((row + 0.5) / rows, (column + 0.5) / columns) == voxel


def test_marks_stand_at_all_four_edges_and_say_which_side_is_which() -> None:
    empty = np.zeros((400, 400, 3), np.uint8)
    draw_marks(empty, "axial")
    lit = empty[:, :, 0] > 200
    assert lit[:40].any() and lit[-40:].any() and lit[:, :40].any() and lit[:, -40:].any()
    left, right = lit[150:250, :40], lit[150:250, -40:]
    assert left.sum() > right.sum()  # an R has more ink than an L
    assert not lit[60:150, 60:340].any()


def test_without_an_orientation_no_side_is_claimed(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / "x.png")
    from medseg.review.case import ReviewCase

    one = open_case(ReviewCase("x", (tmp_path / "x.png",), ("image",)), tmp_path / "cache")
    picture = draw_plane(one, View(Window(centre=128, width=256), (0, 10, 15), cross=False), "axial", 300)
    assert len(np.unique(picture)) == 1
