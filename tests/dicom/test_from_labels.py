"""Labels of other programs become DICOM Segmentations of their series, however they store their axes."""

import itertools

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.cli import main
from medseg.dicom.from_labels import onto_series
from medseg.images.dicom.intake import take_in
from medseg.images.formats import write_labels
from medseg.images.volume import Volume

from tiny import asymmetric_labels
from tiny_dicom import affine_of, make_series, save

TABLE = LabelTable(labels=(Label(name="liver", value=3), Label(name="tumour", value=300)))


def turned(values: np.ndarray, affine: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels stored in another order and direction."""
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for axis, source in enumerate(order):
        change[source, axis] = -1 if flips[axis] else 1
        change[source, 3] = values.shape[source] - 1 if flips[axis] else 0
    array = np.transpose(values, order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(np.ascontiguousarray(array), affine @ change)


@pytest.fixture
def series(tmp_path):
    made = make_series(asymmetric_labels().astype(np.int16))
    save(made, tmp_path / "in")
    TABLE.save(tmp_path / "labels.yaml")
    return made


def frames(path, series) -> np.ndarray:
    return hd.seg.segread(path).get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in series], combine_segments=True, assert_missing_frames_are_empty=True
    )


def test_any_order_and_direction_of_axes_comes_out_on_the_same_voxels(tmp_path, series):
    (own,) = take_in(tmp_path / "in").series
    labels = asymmetric_labels()
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            found = onto_series(turned(labels, affine_of(), order, flips), own)
            assert found is not None
            assert np.array_equal(found, labels), (order, flips)


def test_a_label_file_becomes_a_segmentation_of_its_series(tmp_path, series):
    indices = asymmetric_labels()
    volume = turned(np.array([0, 3, 300], np.uint16)[indices], affine_of(), (2, 0, 1), (True, False, True))
    write_labels(tmp_path / "labels.nii.gz", volume.array, volume)
    words = [f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", f"labels={tmp_path / 'labels.nii.gz'}"]
    assert main(["convert", *words]) == 0
    (path,) = (tmp_path / "out").glob("*_segmentation.dcm")
    assert np.array_equal(frames(path, series), indices)
    segment = pydicom.dcmread(path).SegmentSequence[0]
    assert (segment.SegmentAlgorithmType, segment.SegmentLabel) == ("MANUAL", "liver")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: Volume(v.array[1:], v.affine), "does not lie on the grid"),
        (lambda v: v, "holds no structure"),
        (
            lambda v: Volume(v.array, np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ v.affine),
            "grid",
        ),
    ],
)
def test_labels_of_other_voxels_and_empty_ones_are_refused(tmp_path, series, capsys, change, sentence):
    empty = sentence.startswith("holds")
    volume = change(Volume(np.zeros((8, 12, 10), np.uint8) if empty else asymmetric_labels() * 3 // 2, affine_of()))
    write_labels(tmp_path / "labels.nii.gz", volume.array, volume)
    words = [f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", f"labels={tmp_path / 'labels.nii.gz'}"]
    assert main(["convert", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
