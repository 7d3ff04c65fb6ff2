"""Another examination is looked up where the planes of this one lie, whatever grids the two have."""

from pathlib import Path

import numpy as np
import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.images.formats import write_image, write_labels
from medseg.images.register import Alignment
from medseg.images.volume import Volume
from medseg.review.alignment import AlignedCase, aligned
from medseg.review.cache import OpenCase, open_case
from medseg.review.case import Finding, ReviewCase
from medseg.review.slices import PLANES
from medseg.review.view import View, draw_plane
from medseg.review.windows import Window

SHAPE = (12, 20, 16)
AFFINE = np.array([[0, 0, 2.0, 0], [0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
SHIFT = np.array([4.0, -6.0, 9.0])
TABLE = LabelTable(labels=(Label(name="organ", value=7),))


def blob(middle: tuple[int, int, int]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum(((axis - at) / size) ** 2 for axis, at, size in zip(axes, middle, (3, 5, 4), strict=True)) < 1


def opened(folder: Path, name: str, array: np.ndarray, affine: np.ndarray) -> tuple[OpenCase, Finding]:
    volume = Volume(array.astype(np.float32) * 100, affine)
    write_image(folder / f"{name}.nii.gz", volume.array, volume)
    write_labels(folder / f"{name}_labels.nii.gz", array.astype(np.uint8) * 7, volume)
    finding = Finding(f"of {name}", folder / f"{name}_labels.nii.gz", TABLE)
    case = ReviewCase(name, (folder / f"{name}.nii.gz",), ("CT",), (finding,))
    return open_case(case, folder / "cache"), finding


@pytest.fixture
def pair(tmp_path: Path) -> tuple[AlignedCase, OpenCase, Finding, Finding]:
    """A body, and the same one stored from the other side and lying elsewhere in the scanner."""
    first, found = opened(tmp_path, "first", blob((6, 10, 8)), AFFINE)
    flip = np.diag([1.0, 1, -1, 1])
    flip[2, 3] = SHAPE[2] - 1
    moved = AFFINE.copy()
    moved[:3, 3] += SHIFT
    second, other = opened(tmp_path, "second", blob((6, 10, 8))[:, :, ::-1], moved @ flip)
    matrix = np.eye(4)
    matrix[:3, 3] = SHIFT
    known = Alignment(
        matrix=tuple(tuple(row) for row in matrix.tolist()), turn_degrees=0, shift_mm=11.5, overlap=1, similarity=1
    )
    return AlignedCase(first, second, known), first, found, other


@pytest.mark.parametrize("plane", PLANES)
def test_the_planes_of_both_are_the_same_picture(pair, plane) -> None:
    both, first, found, other = pair
    view = View(Window(centre=50, width=100), (6, 9, 8), finding=found)
    mine = draw_plane(first, view, plane, 200)
    theirs = draw_plane(both, View(view.window, view.place, finding=other), plane, 200)
    assert np.array_equal(mine, theirs)
    assert len(np.unique(mine.reshape(-1, 3), axis=0)) > 3


def test_what_lies_outside_of_the_other_examination_is_empty(pair) -> None:
    both, first, _, other = pair
    far = np.eye(4)
    far[:3, 3] = 1000
    known = both.known.model_copy(update={"matrix": tuple(tuple(row) for row in far.tolist())})
    away = AlignedCase(first, both.moving, known)
    assert not np.any(away.labels(other)[6, slice(0, 20), slice(0, 16)])
    assert away.image[0][6, slice(0, 20), slice(0, 16)].shape == (20, 16)


def test_an_alignment_is_found_once_and_kept(pair) -> None:
    both, first, _, _ = pair
    found = aligned(first, both.moving).known
    np.testing.assert_allclose(found.matrix, both.known.matrix, atol=0.7)
    (kept,) = (first.folder / "aligned").iterdir()
    found.model_copy(update={"turn_degrees": 77.0}).save(kept)
    assert aligned(first, both.moving).known.turn_degrees == 77
    kept.write_text("of another time")
    assert aligned(first, both.moving).known.turn_degrees == pytest.approx(found.turn_degrees, abs=0.01)
