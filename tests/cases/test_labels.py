"""Any integers stand in label files; inside they are indices, and nothing is renumbered in silence."""

import numpy as np
import pytest

from medseg.cases.case import Case, read_case_labels
from medseg.cases.labels import Label, LabelTable
from medseg.errors import DatasetError, GeometryError
from medseg.images.formats import read_image, read_labels, write_image, write_labels
from medseg.images.volume import Volume

AFFINE = np.array([[0, 0, 1.0, -5], [0, 1.0, 0, 7], [2.0, 0, 0, 3], [0, 0, 0, 1]])


def table(*values):
    return LabelTable(
        labels=(Label(name="background", value=0), *(Label(name=f"s{value}", value=value) for value in values))
    )


def a_case(folder, values, affine=AFFINE):
    """A file that holds the background and the values, and its Case."""
    labels = np.resize(np.array([0, *values]), (3, 4, 5))
    write_image(folder / "a.nii.gz", labels.astype(np.float32), Volume(labels, AFFINE))
    write_labels(folder / "b.nii.gz", labels, Volume(labels, affine))
    return Case("a", (folder / "a.nii.gz",), folder / "b.nii.gz"), labels


@pytest.mark.parametrize("values", [(1, 2), (3, 7), (500, 2), (70_000,), (-3, 9), (255, 256), tuple(range(1, 300))])
def test_values_become_indices_and_come_back_through_files(tmp_path, values):
    known = table(*values)
    case, labels = a_case(tmp_path, values)
    image = read_image(case.images[0])
    indices = read_case_labels(case, known, image)
    assert set(np.unique(indices.array)) <= set(range(len(known)))
    assert indices.array.dtype == (np.uint8 if len(known) <= 256 else np.uint16)
    write_labels(tmp_path / "back.nii.gz", known.to_values(indices.array), image)
    np.testing.assert_array_equal(read_labels(tmp_path / "back.nii.gz").array, labels)


def test_the_type_follows_the_largest_value_so_that_few_large_ones_do_not_wrap():
    assert table(300).to_values(np.array([0, 1], np.uint8)).tolist() == [0, 300]
    assert table(*range(1, 256)).to_values(np.array([255], np.uint8)).dtype == np.uint8


def test_a_value_that_no_label_has_is_refused_with_its_case(tmp_path):
    case, _ = a_case(tmp_path, (1, 4))
    with pytest.raises(DatasetError, match=r"Case 'a': The labels hold the value \[4\] that no label has"):
        read_case_labels(case, table(1, 2), read_image(case.images[0]))


def test_labels_that_lie_mirrored_to_their_image_are_refused_before_training(tmp_path):
    mirrored = AFFINE.copy()
    mirrored[0] *= -1
    case, _ = a_case(tmp_path, (1, 2), mirrored)
    with pytest.raises(GeometryError, match="Case 'a': the image: spacing") as caught:
        read_case_labels(case, table(1, 2), read_image(case.images[0]))
    assert "Correct the header" in str(caught.value)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 10**12])
def test_values_beyond_32_bits_are_refused_since_no_label_file_holds_them(value):
    with pytest.raises(DatasetError, match="value"):
        LabelTable.validated({"labels": [{"name": "huge", "value": value}]}, "dataset.yaml")
