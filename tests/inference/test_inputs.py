import pytest

from medseg.errors import DatasetError
from medseg.inference.inputs import find_cases, suffix_of


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def named(cases):
    return {case.name: [path.name for path in case.images] for case in cases}


def test_channels_are_recognised_by_their_numbers(tmp_path):
    folder = touch(tmp_path / "in", "b_0001.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    cases, complaints = find_cases(folder, ["t1", "t2"])
    assert named(cases) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"], "b": ["b_0000.nii.gz", "b_0001.nii.gz"]}
    assert complaints == []


def test_one_channel_is_a_file_with_or_without_its_number(tmp_path):
    assert named(find_cases(touch(tmp_path / "x", "a_0000.nii.gz", "b_0000.nii.gz"), ["ct"])[0]).keys() == {"a", "b"}
    assert named(find_cases(touch(tmp_path / "y", "a.nii.gz", "b_0000.mha"), ["ct"])[0]).keys() == {"a", "b_0000"}


def test_numbers_that_count_cases_are_no_channels(tmp_path):
    folder = touch(tmp_path / "in", "amos_0001.nii.gz", "amos_0002.nii.gz", "amos_0010.nii.gz")
    assert named(find_cases(folder, ["ct"])[0]).keys() == {"amos_0001", "amos_0002", "amos_0010"}


def test_more_channels_than_the_model_takes_are_a_complaint(tmp_path):
    cases, complaints = find_cases(touch(tmp_path / "in", "a_0000.nii.gz", "a_0001.nii.gz"), ["ct"])
    assert cases == []
    assert [complaint.code for complaint in complaints] == ["too-many-channels"]


def test_a_missing_channel_is_a_complaint_of_its_case_only(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.nii.gz", "a_0002.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz")
    cases, complaints = find_cases(folder, ["t1", "t2", "flair"])
    assert list(named(cases)) == ["c"]
    assert str(complaints[0]).startswith("Case 'a' lacks channel 1 (t2): there is only a_0000.nii.gz, a_0002.nii.gz.")


def test_two_files_for_one_case_are_ambiguous(tmp_path):
    cases, complaints = find_cases(touch(tmp_path / "in", "a.nii", "a.nii.gz", "b.nii.gz"), ["ct"])
    assert list(named(cases)) == ["b"]
    assert complaints[0].code == "ambiguous-siblings"


def test_a_single_file_brings_its_other_channels(tmp_path):
    folder = touch(tmp_path / "in", "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "notes.txt", ".hidden.nii.gz")
    cases, complaints = find_cases(folder / "a_0000.nii.gz", ["t1", "t2"])
    assert named(cases) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    assert complaints == []
    assert named(find_cases(folder / "b_0000.nii.gz", ["ct"])[0]) == {"b": ["b_0000.nii.gz"]}


def test_a_colour_file_may_hold_all_channels(tmp_path):
    assert named(find_cases(touch(tmp_path / "in", "a.png", "b.png"), ["red", "green", "blue"])[0]).keys() == {"a", "b"}


def test_nothing_to_predict_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="There is no image"):
        find_cases(touch(tmp_path / "in", "notes.txt"), ["ct"])
    with pytest.raises(DatasetError, match="does not exist"):
        find_cases(tmp_path / "nowhere", ["ct"])


def test_the_suffix_is_kept_as_written(tmp_path):
    assert suffix_of(tmp_path / "a_0000.nii.gz") == ".nii.gz"
    assert suffix_of(tmp_path / "a.b.mha") == ".mha"
