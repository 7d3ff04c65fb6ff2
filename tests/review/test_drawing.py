"""A drawing becomes a correction only where it lies on the case's voxels, whatever way the file is stored."""

import gzip

import numpy as np
import pytest
from tiny_review import ORIENTATIONS, patient, stored, write_patient

from medseg.errors import DatasetError, GeometryError, MedsegError
from medseg.images.formats import read_labels, write_labels
from medseg.images.volume import Volume
from medseg.review.cache import open_case
from medseg.review.corrections import Corrections
from medseg.review.drawing import read_drawing


@pytest.fixture
def one(tmp_path):
    return open_case(write_patient(tmp_path, stored(patient(), *ORIENTATIONS[17])), tmp_path / "cache")


def drawn(folder, one, labels, affine=None) -> bytes:
    """Labels on the page as the browser sends them."""
    like = Volume(np.zeros((1, *labels.shape), np.float32), one.affine if affine is None else affine)
    write_labels(folder / "drawing.nii.gz", labels, like)
    return (folder / "drawing.nii.gz").read_bytes()


@pytest.mark.parametrize("orientation", [0, 17, 30, 47])
def test_a_drawn_voxel_lies_in_the_file_where_it_was_drawn_in_the_patient(tmp_path, orientation):
    volume = stored(patient(), *ORIENTATIONS[orientation])
    one = open_case(write_patient(tmp_path, volume), tmp_path / "cache")
    finding = one.case.findings[0]
    labels = np.array(one.labels(finding))
    labels[1, 2, 3] = 2
    taken = read_drawing(drawn(tmp_path, one, labels), one, finding)
    assert np.array_equal(taken, labels)
    made = Corrections(tmp_path / "corrections", one).add(taken, finding, "drawn", "Dr X")
    before, after = read_labels(finding.labels), read_labels(made.labels)
    (changed,) = np.argwhere(before.array != after.array)
    assert np.allclose(volume.affine @ (*changed, 1), one.affine @ (1, 2, 3, 1))


def test_another_grid_another_shape_and_unknown_structures_are_refused(tmp_path, one):
    finding = one.case.findings[0]
    labels = np.array(one.labels(finding))
    moved = one.affine.copy()
    moved[0, 3] += 1
    with pytest.raises(GeometryError, match="lies elsewhere"):
        read_drawing(drawn(tmp_path, one, labels, moved), one, finding)
    with pytest.raises(GeometryError, match="has shape"):
        read_drawing(drawn(tmp_path, one, labels[:-1]), one, finding)
    labels[0, 0, 0] = 7
    with pytest.raises(DatasetError, match="structure 7"):
        read_drawing(drawn(tmp_path, one, labels), one, finding)


@pytest.mark.parametrize(
    "packed",
    [b"", b"no gzip", gzip.compress(b"no nifti"), gzip.compress(bytes(10**7))],
    ids=["empty", "no gzip", "no nifti", "far too large"],  # gzip writes the time, and a test's name must stay
)
def test_what_is_no_drawing_is_a_sentence(one, packed):
    with pytest.raises(MedsegError):
        read_drawing(packed, one, one.case.findings[0])


def test_a_drawing_that_was_cut_off_is_refused(tmp_path, one):
    finding = one.case.findings[0]
    packed = drawn(tmp_path, one, np.array(one.labels(finding)))
    with pytest.raises(DatasetError, match="cut off"):
        read_drawing(packed[:-12], one, finding)
