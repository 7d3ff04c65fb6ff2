"""A folder of DICOM studies is a Dataset: series are images, segmentations and structure sets are labels."""

from pathlib import Path

import numpy as np
import pytest

from medseg.cases.case import read_case_image, read_case_labels
from medseg.cases.check import check_dataset
from medseg.cases.dicom_inputs import find_dicom_cases
from medseg.cases.formats import read_dataset, save_dataset
from medseg.dicom.contours import make_structure_set
from medseg.dicom.origin import Origin
from medseg.dicom.segmentation import make_segmentation, segments_of
from medseg.errors import DatasetError
from medseg.images.dicom.selection import SeriesRules, choose_series

from messy_dicom import CASES, OBLIQUE
from tiny import asymmetric_labels
from tiny_dicom import coded_voxels, make_series, save, uid

SHAPE = (8, 33, 32)
ORIGIN = Origin("tiny", "ab" * 32)


def write_study(folder: Path, number: int, kind: str = "BINARY", **attributes) -> None:
    """A CT whose brightness tells its labels, the labels beside it, and a series that nobody has labelled."""
    from medseg.cases.labels import Label, LabelTable

    table = LabelTable(labels=(Label(name="ball", value=1), Label(name="box", value=2)))
    labels = np.roll(asymmetric_labels(SHAPE), number, axis=1)
    noise = np.random.default_rng(number).integers(0, 50, SHAPE)
    study = {"StudyInstanceUID": uid("study", number), "PatientID": f"p{number // 2}"} | attributes
    frame = {"FrameOfReferenceUID": uid("frame", number)}
    voxels = (1000 + 200 * labels.astype(int) + noise).astype(np.uint16)
    series = make_series(voxels, name=f"ct {number}", **study, **frame)
    save(series, folder / f"{number}/ct")
    save(make_series(name=f"other {number}", **study, **frame), folder / f"{number}/other")
    segments = segments_of(labels, table)
    if kind == "RTSTRUCT":
        made = make_structure_set(series, labels, segments, ORIGIN)
    else:
        made = make_segmentation(series, labels, segments, ORIGIN, kind)
    made.save_as(folder / f"{number}/labels", enforce_file_format=True)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    for number, kind in enumerate(("BINARY", "LABELMAP", "RTSTRUCT", "BINARY")):
        write_study(tmp_path / "studies", number, kind)
    return tmp_path / "studies"


def test_studies_become_cases_with_named_labels_and_nobody_is_named(studies: Path, tmp_path: Path) -> None:
    dataset = read_dataset(studies)
    assert dataset.channels == ("CT",)
    assert dataset.labels.names == ("ball", "box")
    assert len(dataset.cases) == 4
    assert len({case.patient for case in dataset.cases}) == 2
    for case in dataset.cases:
        image = read_case_image(case, 1)
        labels = read_case_labels(case, dataset.labels, image)
        np.testing.assert_array_equal(labels.array, np.rint((image.array[0] + 1024 - 1025) / 200).clip(0))
    names = {case.name for case in dataset.cases}
    assert {case.patient for case in dataset.cases} < names  # never the ID, nor a hash of it that could be guessed
    save_dataset(dataset, tmp_path / "workspace/dataset.yaml")
    assert read_dataset(tmp_path / "workspace/dataset.yaml") == dataset
    assert "Muster" not in (tmp_path / "workspace/dataset.yaml").read_text()


def test_check_reads_them_and_finds_nothing_wrong_but_the_series_left_out(studies: Path) -> None:
    complaints = check_dataset(studies)
    assert {complaint.code for complaint in complaints} == {"series-without-labels"}


def test_labels_that_belong_to_no_usable_series_are_complaints(studies: Path, tmp_path: Path) -> None:
    slices = sorted((studies / "0/ct").iterdir())
    slices[4].unlink()
    for file in (studies / "1/ct").iterdir():
        file.unlink()
    found = {complaint.code: complaint for complaint in check_dataset(studies) if complaint.severity == "error"}
    assert set(found) == {"series-gap", "labels-without-series"}
    assert "1 slice is missing" in found["series-gap"].sentence
    with pytest.raises(DatasetError, match="missing"):
        read_dataset(studies)


def two_channels(folder: Path, rules: str, shift: float = 0.0, **second) -> None:
    write_study(folder, 0)
    voxels = coded_voxels((6, 20, 20))
    series = make_series(
        voxels, OBLIQUE, (3.1, 1.2, 1.3), (-28.0, 22.0, -98.0), name="t2",
        **({"StudyInstanceUID": uid("study", 0), "PatientID": "p0", "FrameOfReferenceUID": uid("frame", 0),
            "SeriesDescription": "T2 axial", "Modality": "MR"} | second),
    )  # fmt: skip
    save(series, folder / "0/t2")
    (folder / "series.yaml").write_text(rules)


RULES = """
kind: series_rules
format: 1
channels:
- {channel: CT, modality: CT, prefer: [last]}
- {channel: T2, description: t2}
"""


def test_rules_choose_a_series_for_each_channel_and_bring_them_to_one_grid(tmp_path: Path) -> None:
    rules = RULES.replace("prefer: [last]", "description: '^ct'")
    two_channels(tmp_path, rules)
    for file in (tmp_path / "0/ct").iterdir():
        _describe(file, "CT native")
    dataset = read_dataset(tmp_path)
    assert dataset.channels == ("CT", "T2")
    (case,) = dataset.cases
    image = read_case_image(case, 2)
    assert image.array.shape == (2, *SHAPE)
    assert {path.parent.name for path in case.images} == {"ct", "t2"}
    assert not [complaint for complaint in check_dataset(tmp_path) if complaint.severity == "error"]
    _t2_is_where_it_was(image)


def _describe(path: Path, description: str) -> None:
    import pydicom

    dataset = pydicom.dcmread(path)
    dataset.SeriesDescription = description
    dataset.save_as(path)


def _t2_is_where_it_was(image) -> None:
    """Linear interpolation is exact for 1100 z + 32 y + x, so every voxel inside tells its own place on T2's grid."""
    from tiny_dicom import affine_of

    own = affine_of(OBLIQUE, (3.1, 1.2, 1.3), (-28.0, 22.0, -98.0))
    index = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 3)
    world = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    place = (np.c_[world, np.ones(len(world))] @ np.linalg.inv(own).T)[:, :3]
    inside = (place >= 0).all(axis=1) & (place <= np.array([5, 19, 19])).all(axis=1)
    assert inside.sum() > 50
    expected = 1100 * (place[:, 0] + 1) + 32 * place[:, 1] + place[:, 2] - 1024
    np.testing.assert_allclose(image.array[1].ravel()[inside], expected[inside], atol=0.05)


def test_channels_without_a_common_frame_of_reference_are_refused(tmp_path: Path) -> None:
    two_channels(tmp_path, RULES.replace("prefer: [last]", "description: native"), FrameOfReferenceUID=uid("elsewhere"))
    for file in (tmp_path / "0/ct").iterdir():
        _describe(file, "native")
    errors = [complaint for complaint in check_dataset(tmp_path) if complaint.severity == "error"]
    assert [complaint.code for complaint in errors] == ["grid-mismatch"]
    assert "do not share a frame of reference" in errors[0].sentence


def test_the_choice_and_the_runners_up_are_in_the_manifest(tmp_path: Path) -> None:
    write_study(tmp_path, 0)
    CASES["localizer in the series"].write(tmp_path / "1")
    rules = SeriesRules.from_text(RULES.replace("- {channel: T2, description: t2}\n", ""), "tests")
    found = find_dicom_cases(tmp_path, ["CT"], rules)
    first = next(choice for choice in found.manifest.choices if choice.study_uid == uid("study", 0))
    assert [passed.reason for passed in first.channels[0].runners_up] == [
        "prefer: alike, and behind in the order of UIDs"
    ]
    assert len(found.cases) == 2


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("modality: MR", "its modality is CT, not MR"),
        ("description: liver", "'liver' is not found in its description"),
        ("not_description: phantom", "'phantom' is found"),
        ("image_type: [DERIVED]", "its ImageType is ORIGINAL/PRIMARY/AXIAL"),
        ("orientation: [coronal, sagittal]", "it is axial"),
        ("slices: [20, 400]", "it has 8 slices"),
        ("slice_spacing_mm: [0.5, 2]", "its slices are 2.5 mm apart"),
        ("pixel_spacing_mm: [0.75, 1]", "its pixels are 0.8 x 0.7 mm"),
        ("contrast: true", "without contrast"),
    ],
)
def test_a_series_that_does_not_fit_is_told_why(tmp_path: Path, rule: str, reason: str) -> None:
    from medseg.images.dicom.intake import take_in

    save(make_series(), tmp_path)
    text = f"kind: series_rules\nformat: 1\nchannels: [{{channel: CT, {rule}}}]"
    with pytest.raises(DatasetError, match="No series fits the channel 'CT'") as error:
        choose_series(take_in(tmp_path).series, SeriesRules.from_text(text, "tests"))
    assert reason in str(error.value)


def test_several_channels_need_rules(studies: Path) -> None:
    with pytest.raises(DatasetError, match=r"select=RULES\.yaml"):
        find_dicom_cases(studies, ["CT", "PT"], None)
