"""A prepared case opens from the disk, and is made anew when its files change."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_review import ORIENTATIONS, patient, stored, write_patient

from medseg.errors import DatasetError, GeometryError
from medseg.images.formats import read_image, read_labels, write_image, write_labels
from medseg.images.volume import Volume
from medseg.review.cache import is_prepared, open_case
from medseg.review.case import Finding, ReviewCase
from medseg.review.turn import Turn


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5], ids=str)
def test_turning_to_the_page_and_back_gives_the_same_array_and_places(orientation) -> None:
    volume = stored(patient(), *orientation)
    turn = Turn.of(volume)
    page = turn.to_page(volume.array)
    assert np.array_equal(turn.to_file(page), volume.array)
    affine = turn.affine(volume.affine, volume.shape)
    for value in (100, 200, 300):
        on_page, in_file = (np.argwhere(array[0] == value)[0] for array in (page, volume.array))
        assert np.allclose(affine @ [*on_page, 1], volume.affine @ [*in_file, 1])


def test_whole_numbers_are_kept_as_int16_and_fractions_as_they_are(tmp_path: Path) -> None:
    one = open_case(write_patient(tmp_path, patient()), tmp_path / "cache")
    assert one.image.dtype == np.int16
    assert isinstance(one.image, np.memmap)
    volume = patient()
    other = open_case(write_patient(tmp_path, replace(volume, array=volume.array + 0.25), "b"), tmp_path / "cache")
    assert other.image.dtype == np.float32
    assert sorted(np.unique(other.image)) == [0.25, 100.25, 200.25, 300.25]


def test_a_case_is_prepared_once_and_again_when_its_file_changes(tmp_path: Path) -> None:
    case = write_patient(tmp_path, patient())
    assert not is_prepared(case, tmp_path / "cache")
    open_case(case, tmp_path / "cache")
    made = (tmp_path / "cache/patient/image.npy").stat().st_mtime_ns
    open_case(case, tmp_path / "cache")
    assert (tmp_path / "cache/patient/image.npy").stat().st_mtime_ns == made
    time.sleep(0.01)
    volume = patient()
    write_image(case.images[0], volume.array + 1, volume)
    assert not is_prepared(case, tmp_path / "cache")
    assert open_case(case, tmp_path / "cache").image.max() == 301


def test_the_browser_gets_a_small_copy_that_lies_in_the_same_place(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (1, 4, 5, 600)).astype(np.float32)
    affine = np.array([[0, 0, 0.5, -150], [0, 2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(array, affine)
    write_image(tmp_path / "wide.nii.gz", array, volume)
    labels = np.zeros(array.shape[1:], np.uint8)
    labels[:, :, 300:] = 1
    write_labels(tmp_path / "labels.nii.gz", labels, volume)
    finding = Finding("f", tmp_path / "labels.nii.gz", write_patient(tmp_path, patient()).findings[0].table)
    one = open_case(ReviewCase("wide", (tmp_path / "wide.nii.gz",), ("CT",), (finding,)), tmp_path / "cache")
    small, thin = read_image(one.viewer_image()), read_labels(one.viewer_labels(finding))
    assert max(small.shape) <= 256
    assert small.array.mean() == pytest.approx(array.mean(), abs=1e-3)
    # The border between the labels lies at x = 0 mm in the world, whatever the copy's voxels are.
    inside = np.argwhere(thin.array == 1)
    x = (thin.affine @ np.c_[inside, np.ones(len(inside))].T)[0]
    assert x.min() == pytest.approx(0, abs=0.5 * thin.spacing[2])
    ends = [(copy.affine @ [0, 0, at, 1])[0] for copy in (small, thin) for at in (0, copy.shape[2] - 1)]
    assert ends[0] == pytest.approx(ends[2], abs=1.5)
    assert ends[1] == pytest.approx(ends[3], abs=1.5)


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    case = write_patient(tmp_path, patient())
    moved = patient()
    shifted = replace(moved, affine=moved.affine + np.diag([0.0, 0, 0, 0]) + np.eye(4, k=3) * 5)
    write_labels(tmp_path / "other.nii.gz", np.zeros(moved.shape, np.uint8), shifted)
    one = open_case(case, tmp_path / "cache")
    with pytest.raises(GeometryError, match="elsewhere"):
        one.labels(replace(case.findings[0], labels=tmp_path / "other.nii.gz"))


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "", "a\0b", "x" * 200, "C:\\x"])
def test_a_name_that_could_become_a_path_is_refused(name: str) -> None:
    with pytest.raises(DatasetError, match="can't name a case"):
        ReviewCase(name, (), ("MR",))
