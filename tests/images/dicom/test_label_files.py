"""Segmentations and structure sets come back as the Labels that they were made of, on the image's grid."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from skimage.draw import polygon2mask

from medseg.cases.labels import Label, LabelTable
from medseg.dicom.contours import make_structure_set
from medseg.dicom.origin import Origin
from medseg.dicom.segmentation import make_segmentation, segments_of
from medseg.dicom.sources import completed
from medseg.errors import GeometryError, ImageFileError
from medseg.images.dicom.reading import structures_in
from medseg.images.dicom.structure_set import fill
from medseg.images.formats import read_image, read_labels, read_labels_for

from messy_dicom import CORONAL, OBLIQUE, SAGITTAL
from tiny import asymmetric_labels
from tiny_dicom import AXIAL, make_series, save, to_enhanced

TABLE = LabelTable(
    labels=(
        Label(name="background", value=0),
        Label(name="ball", value=1, code="64033007", color=(200, 30, 40)),
        Label(name="box", value=2),
    )
)
VALUES = {"background": 0, "box": 7, "ball": 3}
EXPECTED = np.array([0, 3, 7], dtype=np.uint8)
ORIGIN = Origin("tiny", "ab" * 32)


def write_labels_of(series, labels, path: Path, kind: str) -> Path:
    """With medseg's own writers; the colours, codes and names of ``TABLE``."""
    segments = segments_of(labels, TABLE)
    if kind == "RTSTRUCT":
        made = make_structure_set(series, labels, segments, ORIGIN)
    else:
        made = make_segmentation(series, labels, segments, ORIGIN, kind)
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "RTSTRUCT"])
def test_labels_come_back_voxel_for_voxel(tmp_path: Path, kind: str, orientation) -> None:
    labels = asymmetric_labels((8, 33, 32))
    series = make_series(orientation=orientation)
    paths = save(series, tmp_path)
    file = write_labels_of(series, labels, tmp_path / "labels", kind)
    image = read_image(paths[3])
    found = read_labels_for(file, image, VALUES)
    np.testing.assert_array_equal(found.array, EXPECTED[labels])
    np.testing.assert_array_equal(found.affine, image.affine)


def test_labels_of_shuffled_frames_of_one_file_come_back(tmp_path: Path) -> None:
    labels, order = asymmetric_labels((8, 33, 32)), [3, 0, 7, 5, 1, 6, 2, 4]
    series = make_series()
    (path,) = save([to_enhanced([series[z] for z in order])], tmp_path)
    file = write_labels_of(series, labels, tmp_path / "labels", "BINARY")
    np.testing.assert_array_equal(read_labels_for(file, read_image(path), VALUES).array, EXPECTED[labels])


def test_names_codes_and_colours_of_segments_are_known(tmp_path: Path) -> None:
    file = write_labels_of(make_series(), asymmetric_labels((8, 33, 32)), tmp_path / "labels", "BINARY")
    ball, box = structures_in(file)
    assert (ball.name, ball.code, box.name) == ("ball", "64033007", "box")
    assert ball.color is not None
    assert np.abs(np.subtract(ball.color, (200, 30, 40))).max() <= 2


def test_a_hole_stays_a_hole_and_a_centre_on_the_line_belongs_to_one_side() -> None:
    outer = np.array([[1.0, 1.0], [1.0, 9.0], [9.0, 9.0], [9.0, 1.0]])
    inner = np.array([[3.5, 3.5], [3.5, 6.5], [6.5, 6.5], [6.5, 3.5]])
    mask = fill([outer, inner], (12, 12))
    assert mask.sum() == 8 * 8 - 3 * 3
    assert not mask[5, 5]
    left, right = fill([outer], (12, 12)), fill([outer + np.array([0, 8])], (12, 12))
    assert not (left & right).any()
    assert (left | right)[4, 1:].all()


def test_polygons_are_filled_as_scikit_image_fills_them() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(random.uniform(0, 2 * np.pi, 15))
        radius = random.uniform(3, 14, 15)
        polygon = np.stack([15.3 + radius * np.sin(angles), 16.2 + radius * np.cos(angles)], axis=1)
        np.testing.assert_array_equal(fill([polygon], (33, 32)), polygon2mask((33, 32), polygon))


def test_labels_on_another_grid_are_refused(tmp_path: Path) -> None:
    labels = asymmetric_labels((8, 33, 32))
    paths = save(make_series(spacing=(2.5, 0.8, 0.75)), tmp_path)
    image = read_image(paths[0])
    for kind in ("BINARY", "LABELMAP"):
        file = write_labels_of(make_series(), labels, tmp_path / kind, kind)
        with pytest.raises(GeometryError, match="another grid than the image"):
            read_labels_for(file, image, VALUES)
    moved = write_labels_of(make_series(origin=(-30, 20, -101)), labels, tmp_path / "rt", "RTSTRUCT")
    with pytest.raises(GeometryError, match="slices beside the nearest plane"):
        read_labels_for(moved, image, VALUES)
    elsewhere = make_series(FrameOfReferenceUID="1.2.3")
    foreign = write_labels_of(elsewhere, labels, tmp_path / "foreign", "BINARY")
    with pytest.raises(GeometryError, match="another frame of reference"):
        read_labels_for(foreign, image, VALUES)


def test_what_can_not_be_labels_is_refused_by_name(tmp_path: Path) -> None:
    series = make_series()
    paths = save(series, tmp_path)
    image = read_image(paths[0])
    file = write_labels_of(series, asymmetric_labels((8, 33, 32)), tmp_path / "labels", "BINARY")
    with pytest.raises(ImageFileError, match="names 'ball', which no label is called; known are 'box'"):
        read_labels_for(file, image, {"box": 1})
    with pytest.raises(ImageFileError, match="labels need the image"):
        read_labels(file)
    with pytest.raises(ImageFileError, match="should be a DICOM segmentation"):
        read_labels_for(paths[0], image, VALUES)
    with pytest.raises(ImageFileError, match="no image that can be used: it holds labels"):
        read_image(file)


@pytest.mark.parametrize(("kind", "message"), [("FRACTIONAL", "holds probabilities"), ("BINARY", "overlaps another")])
def test_probabilities_and_overlapping_segments_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    series = make_series()
    image = read_image(save(series, tmp_path)[0])
    both = np.zeros((8, 33, 32, 2), dtype=np.uint8)
    both[2:4, 5:9, 5:9] = 1
    segments = segments_of(asymmetric_labels((8, 33, 32)), TABLE)
    made = make_segmentation(series, asymmetric_labels((8, 33, 32)), segments, ORIGIN)
    again = hd.seg.Segmentation(
        source_images=completed(series),
        pixel_array=both if kind == "BINARY" else both * 0.5,
        segmentation_type=kind,
        segment_descriptions=list(made.SegmentSequence),
        series_instance_uid=hd.UID(),
        series_number=3,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    again.save_as(tmp_path / "labels")
    with pytest.raises(ImageFileError, match=message):
        read_labels_for(tmp_path / "labels", image, VALUES)
