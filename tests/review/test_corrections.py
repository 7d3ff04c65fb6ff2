"""A correction is a new version; the original and what was undone stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_review import ORIENTATIONS, patient, stored, write_patient

from medseg.errors import DatasetError, GeometryError, MedsegError
from medseg.files import hash_file
from medseg.images.formats import read_labels, write_labels
from medseg.review.cache import open_case
from medseg.review.corrections import Corrections, grown, relabelled_component, shrunk, without_component
from medseg.review.sources import SourceSettings, open_source, with_own_work

from tiny import TABLE

SPACING = (3.0, 1.0, 2.0)


def two_parts() -> np.ndarray:
    labels = np.zeros((8, 12, 10), np.uint8)
    labels[1:3, 1:4, 1:4], labels[5:7, 8:11, 6:9], labels[5:7, 1:4, 6:9] = 1, 1, 2
    return labels


def test_only_the_part_under_the_crosshair_goes_or_changes_its_name() -> None:
    labels = two_parts()
    gone = without_component(labels, (1, 2, 2))
    assert gone[1:3, 1:4, 1:4].sum() == 0
    assert (gone[5:7] == labels[5:7]).all()
    renamed = relabelled_component(labels, (5, 9, 7), 2)
    assert (renamed[5:7, 8:11, 6:9] == 2).all()
    assert (renamed[1:3] == labels[1:3]).all()
    assert (labels == two_parts()).all()
    with pytest.raises(MedsegError, match="no structure under"):
        without_component(labels, (0, 0, 0))


def test_growing_is_measured_in_millimetres_and_never_takes_from_another_structure() -> None:
    labels = np.zeros((9, 21, 15), np.uint8)
    labels[4, 10, 7], labels[4, 10, 8] = 1, 2
    bigger = grown(labels, 1, 2.0, SPACING)
    places = np.argwhere(bigger == 1) - [4, 10, 7]
    assert (np.linalg.norm(places * SPACING, axis=1) <= 2.0).all()
    assert bigger[4, 8, 7] == 1 and bigger[4, 12, 7] == 1 and bigger[4, 10, 6] == 1
    assert bigger[4, 10, 8] == 2 and bigger[3, 10, 7] == 0


def test_shrinking_takes_the_surface_away() -> None:
    labels = np.zeros((9, 21, 15), np.uint8)
    labels[1:8, 4:17, 3:12] = 1
    smaller = shrunk(labels, 1, 2.0, SPACING)
    # 3 mm from slice to slice are more than 2; along y two voxels go on either side, along x one.
    assert (smaller[1:8, 6:15, 4:11] == 1).all()
    assert smaller.sum() == 7 * 9 * 7
    with pytest.raises(MedsegError, match="no voxel"):
        shrunk(labels, 2, 1.0, SPACING)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::11], ids=str)
def test_versions_lie_on_the_images_own_grid_and_the_original_is_untouched(orientation, tmp_path: Path) -> None:
    case = write_patient(tmp_path, stored(patient(), *orientation))
    one, finding = open_case(case, tmp_path / "cache"), case.findings[0]
    before = hash_file(finding.labels)
    corrections = Corrections(tmp_path / "corrections", one)
    labels = np.array(one.labels(finding))
    labels[labels == 2] = 0
    version = corrections.add(labels, finding, "the second structure removed", "Dr X")
    written = read_labels(version.labels)
    assert np.allclose(written.affine, one.file_affine)
    assert np.array_equal(one.turn.to_page(written.array), labels)
    assert hash_file(finding.labels) == before
    step = corrections.history.steps[0]
    assert (step.of, step.source, step.reviewer) == ("a model", before, "Dr X")


def test_undo_goes_back_version_by_version_and_numbers_are_never_used_again(tmp_path: Path) -> None:
    case = write_patient(tmp_path / "in", patient())
    source = open_source(SourceSettings(input=tmp_path / "in"))
    one, finding = open_case(case, source.cache), case.findings[0]
    corrections = Corrections(source.corrections / case.name, one)
    for index in (1, 2):
        labels = np.array(one.labels(finding))
        labels[labels == index] = 0
        corrections.add(labels, finding, f"without {index}", "Dr X")
    assert [one.name for one in with_own_work(source).cases[0].findings] == ["correction 2", "correction 1"]
    assert corrections.undo() == 2
    assert [one.name for one in with_own_work(source).cases[0].findings] == ["correction 1"]
    labels = np.zeros(one.shape, np.uint8)
    assert corrections.add(labels, finding, "all gone", "Dr X").name == "correction 3"
    assert (source.corrections / case.name / "undone/2.nii.gz").is_file()
    assert [corrections.undo(), corrections.undo()] == [3, 1]
    with pytest.raises(MedsegError, match="no correction to undo"):
        corrections.undo()


def test_a_correction_that_changes_nothing_or_has_no_author_is_refused(tmp_path: Path) -> None:
    case = write_patient(tmp_path, patient())
    one, finding = open_case(case, tmp_path / "cache"), case.findings[0]
    corrections = Corrections(tmp_path / "corrections", one)
    with pytest.raises(MedsegError, match="Nothing would change"):
        corrections.add(np.array(one.labels(finding)), finding, "nothing", "Dr X")
    with pytest.raises(MedsegError, match="needs the name"):
        corrections.add(np.zeros(one.shape, np.uint8), finding, "all gone", " ")
    assert corrections.current is None


def test_what_comes_back_from_another_program_has_to_lie_on_the_image(tmp_path: Path) -> None:
    volume = patient()
    case = write_patient(tmp_path, volume)
    one, finding = open_case(case, tmp_path / "cache"), case.findings[0]
    corrections = Corrections(tmp_path / "corrections", one)
    labels = np.zeros(volume.shape, np.uint8)
    labels[4, 6:9, 5] = 2
    write_labels(tmp_path / "edited.nii.gz", labels, volume)
    back = corrections.take_back(tmp_path / "edited.nii.gz", finding, "Dr X")
    assert np.array_equal(one.turn.to_file(one.labels(back)), TABLE.to_indices(labels))
    write_labels(tmp_path / "shifted.nii.gz", labels, replace(volume, affine=volume.affine + 4 * np.eye(4, k=3)))
    with pytest.raises(GeometryError, match="elsewhere"):
        corrections.take_back(tmp_path / "shifted.nii.gz", finding, "Dr X")
    write_labels(tmp_path / "unknown.nii.gz", labels + 7, volume)
    with pytest.raises(DatasetError, match="no label has"):
        corrections.take_back(tmp_path / "unknown.nii.gz", finding, "Dr X")
    assert corrections.current == 1
