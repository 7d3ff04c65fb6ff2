"""Left stays left and front stays front through DICOM and back, however a scanner stacks its slices."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from medseg.dicom.origin import Origin
from medseg.dicom.segmentation import make_segmentation, segments_of
from medseg.images.dicom.intake import take_in
from medseg.images.formats import read_image, read_labels, read_labels_for, write_labels

from tiny import table_named
from tiny_dicom import make_series, save

SPACING = (2.5, 0.8, 0.7)
SHAPE = (6, 9, 8)
TURNS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def directions(order, signs) -> np.ndarray:
    """Unit vectors (columns) in which stored z, y and x increase, LPS+."""
    axes = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        axes[world, axis] = sign
    return axes


@pytest.mark.parametrize(("order", "signs"), TURNS, ids=str)
def test_marks_of_the_patient_stay_where_they_are(tmp_path: Path, order, signs) -> None:
    """Right, front and top of an asymmetric phantom: image, SEG and NIfTI, in all 48 orders of axes."""
    axes = directions(order, signs)
    centred = np.moveaxis(np.indices(SHAPE), 0, -1) - (np.array(SHAPE) - 1) / 2
    lps = (centred * SPACING) @ axes.T
    right, front, top = lps[..., 0] < -1.2, lps[..., 1] < -1.2, lps[..., 2] > 1.2
    labels = (right * 1 + front * 2 + top * 4).astype(np.uint8)
    paths = save(_series(labels, axes), tmp_path / "in")
    (series,) = take_in(tmp_path / "in").series
    volume = series.read()
    assert _sides(volume.array[0] + 1024, volume.affine) == ("right", "front", "top")
    found = (volume.array[0] + 1024).astype(np.uint8)
    _through_seg(series, found, paths[0], tmp_path)
    write_labels(tmp_path / "labels.nii.gz", found, volume)
    back = read_labels(tmp_path / "labels.nii.gz")
    assert _sides(back.array, back.affine) == ("right", "front", "top")


def _series(labels: np.ndarray, axes: np.ndarray):
    """Slices along stored z: in the direction of row x column, or against it, as the files come."""
    along_z, along_column, along_row = axes.T
    corner = -(np.array(SHAPE) - 1) / 2 * SPACING @ axes.T
    normal = np.cross(along_row, along_column)
    if normal @ along_z > 0:
        return make_series(labels.astype(np.uint16), (*along_row, *along_column), SPACING, corner)
    end = corner + along_z * (SHAPE[0] - 1) * SPACING[0]
    series = make_series(labels[::-1].astype(np.uint16), (*along_row, *along_column), SPACING, end)
    for number, one in enumerate(reversed(series), start=1):
        one.InstanceNumber = number
    return series[::-1]


def _sides(labels: np.ndarray, affine: np.ndarray) -> tuple[str, ...]:
    """On which side of the patient each bit of the labels lies, by the affine alone (RAS+)."""
    found = []
    for bit, names in enumerate((("left", "right"), ("back", "front"), ("bottom", "top"))):
        inside = (labels.astype(int) >> bit) & 1 == 1
        ras = np.argwhere(inside) @ affine[:3, :3].T + affine[:3, 3]
        value = ras.mean(axis=0)[bit]
        assert abs(value) > 0.5
        assert (np.abs(np.delete(ras.mean(axis=0), bit)) < 0.1).all()
        found.append(names[int(value > 0)])
    return tuple(found)


def _through_seg(series, labels: np.ndarray, path: Path, folder: Path) -> None:
    table = table_named(*(f"structure {value}" for value in range(1, 8)))
    made = make_segmentation(
        series.read_headers(), series.on_slices(labels), segments_of(labels, table), Origin("tiny", "ab" * 32)
    )
    made.save_as(folder / "seg.dcm")
    back = read_labels_for(folder / "seg.dcm", read_image(path), {"background": 0} | table.values_by_name)
    np.testing.assert_array_equal(back.array, labels)
    assert _sides(back.array, back.affine) == ("right", "front", "top")
