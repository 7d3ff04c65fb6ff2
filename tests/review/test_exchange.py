"""What leaves can be read by others, and what comes in is checked."""

import io
from pathlib import Path

import pytest
from tiny_review import patient, write_patient, write_read_workspace

from medseg.cases.formats import read_dataset
from medseg.errors import DatasetError
from medseg.files import hash_file
from medseg.images.formats import read_image, read_labels
from medseg.review.cache import open_case
from medseg.review.exports import export_dataset, export_for_editing, itksnap_labels, slicer_colors
from medseg.review.records import Review
from medseg.review.sources import SourceSettings, open_source, with_own_work
from medseg.review.uploads import Upload, take_upload

from tiny import TABLE


def upload(name: str, content: bytes) -> Upload:
    return Upload(name, io.BytesIO(content), len(content))


def accepted(source, name: str) -> Review:
    finding = source.case(name).findings[0]
    return Review(
        case=name, finding=finding.name, labels=hash_file(finding.labels), status="accepted", difficulty="easy",
        reviewer="Dr X",
    )  # fmt: skip


def test_the_accepted_cases_become_a_dataset_to_train_on(tmp_path: Path) -> None:
    source = open_source(SourceSettings(workspace=write_read_workspace(tmp_path)))
    reviews = {"case_00": accepted(source, "case_00"), "case_01": accepted(source, "case_01")}
    reviews["case_01"] = reviews["case_01"].model_copy(update={"status": "rejected"})
    assert export_dataset(source.cases, reviews, tmp_path / "next", "next") == 1
    dataset = read_dataset(tmp_path / "next")
    (case,) = dataset.cases
    assert (dataset.name, dataset.channels, dataset.labels) == ("next", ("MR",), TABLE)
    assert case.labels is not None and case.labels.is_relative_to(tmp_path / "next")
    assert (read_labels(case.labels).array == read_labels(source.cases[0].findings[0].labels).array).all()


def test_nothing_accepted_and_labels_that_changed_since_are_refused(tmp_path: Path) -> None:
    source = open_source(SourceSettings(workspace=write_read_workspace(tmp_path)))
    with pytest.raises(DatasetError, match="No case has been accepted"):
        export_dataset(source.cases, {}, tmp_path / "next", "next")
    review = accepted(source, "case_00").model_copy(update={"labels": "0" * 64})
    with pytest.raises(DatasetError, match="have changed since"):
        export_dataset(source.cases, {"case_00": review}, tmp_path / "next", "next")
    assert not (tmp_path / "next").exists()


def test_other_programs_get_image_labels_and_colours_on_the_same_grid(tmp_path: Path) -> None:
    case = write_patient(tmp_path, patient())
    one = open_case(case, tmp_path / "cache")
    folder = export_for_editing(one, case.findings[0], tmp_path / "out")
    assert (read_image(folder / "image.nii.gz").array == read_image(case.images[0]).array).all()
    assert (read_labels(folder / "labels.nii.gz").array == read_labels(case.findings[0].labels).array).all()
    assert slicer_colors(TABLE).splitlines()[1] == "1 ball 230 159 0 255"
    assert itksnap_labels(TABLE).splitlines()[2] == '2 86 180 233 1 1 1 "box"'


def test_an_upload_becomes_a_case_like_any_other(tmp_path: Path) -> None:
    case = write_patient(tmp_path / "in", patient())
    source = open_source(SourceSettings(input=tmp_path / "in"))
    content = case.images[0].read_bytes()
    take_upload([upload("../../etc/passwd.nii.gz", content)], "new_case", source.uploads)
    assert [path.name for path in (source.uploads / "new_case").iterdir()] == ["new_case.nii.gz"]
    found = with_own_work(source).case("new_case")
    assert open_case(found, source.cache).shape == patient().shape


@pytest.mark.parametrize(
    ("name", "files", "told"),
    [
        ("../x", [("a.nii.gz", b"")], "can't name a case"),
        ("x", [("a.nii.gz", b"\x1f\x8bno")], "can't be taken in"),
        ("x", [("a.dcm", b"no DICOM at all" * 20)], "neither DICOM nor an image"),
        ("x", [("a.nii.gz", b""), ("b", b"")], "one kind at a time"),
        ("x", [], "no file"),
    ],
)
def test_an_upload_that_can_not_be_used_leaves_nothing_behind(name, files, told, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        take_upload([upload(file, content) for file, content in files], name, tmp_path / "uploads")
    assert not list((tmp_path / "uploads").glob("*")) if (tmp_path / "uploads").exists() else True


def test_a_case_that_is_there_is_never_replaced_by_an_upload(tmp_path: Path) -> None:
    content = write_patient(tmp_path, patient()).images[0].read_bytes()
    take_upload([upload("a.nii.gz", content)], "x", tmp_path / "uploads")
    with pytest.raises(DatasetError, match="already"):
        take_upload([upload("a.nii.gz", content)], "x", tmp_path / "uploads")
