from pathlib import Path

import pytest

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.labels import LabelTable
from medseg.cases.test_set import draw_test_set, set_aside
from medseg.errors import DatasetError, SettingsError


def dataset_of(patients: dict[str, str | None]) -> Dataset:
    cases = tuple(Case(name, (Path(name),), Path(name), patient) for name, patient in sorted(patients.items()))
    return Dataset("d", ("CT",), LabelTable(labels=()), cases)


def test_a_share_is_drawn_by_patients_and_is_always_the_same():
    dataset = dataset_of({f"c{i:02d}": f"p{i // 3}" for i in range(30)})
    drawn = draw_test_set(dataset, 0.2)
    assert len(drawn.test) == 6
    assert len(drawn.cases) == 24
    assert not {case.patient for case in drawn.test} & {case.patient for case in drawn.cases}
    assert all(case.split == "test" for case in drawn.test)
    assert draw_test_set(dataset, 0.2) == drawn


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(SettingsError, match="share between 0 and 1"):
        draw_test_set(dataset_of({"a": None, "b": None}), share)


def test_a_single_patient_can_not_be_divided():
    with pytest.raises(SettingsError, match=r"1 patient\(s\) leaves nothing"):
        draw_test_set(dataset_of({"a": "p", "b": "p"}), 0.5)


def test_named_cases_are_set_aside_and_unknown_ones_refused():
    dataset = dataset_of({"a": None, "b": None, "c": None})
    assert [case.name for case in set_aside(dataset, ["b"]).test] == ["b"]
    with pytest.raises(SettingsError, match="not there: x"):
        set_aside(dataset, ["x"])
    with pytest.raises(SettingsError, match="nothing is left to train on"):
        set_aside(dataset, ["a", "b", "c"])


def test_a_patient_on_both_sides_is_refused():
    with pytest.raises(DatasetError, match="patient of the test case 'a' is also in the training case 'b'"):
        set_aside(dataset_of({"a": "p", "b": "p"}), ["a"])


def test_a_test_set_survives_being_saved_and_read(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    cases = tuple(Case(x, (tmp_path / x,), tmp_path / x, stratum="MR 1") for x in "abc")
    labels = LabelTable.model_validate({"labels": [{"name": "one", "value": 1}]})
    dataset = set_aside(Dataset("d", ("CT",), labels, cases), ["b"])
    save_dataset(dataset, tmp_path / "dataset.yaml")
    assert read_dataset(tmp_path / "dataset.yaml") == dataset


def test_nnunets_test_folder_with_labels_is_the_test_set(tmp_path):
    for folder, names in (("imagesTr", ["a_0000"]), ("labelsTr", ["a"]), ("imagesTs", ["b_0000", "c_0000"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii.gz").touch()
    (tmp_path / "labelsTs").mkdir()
    (tmp_path / "labelsTs" / "b.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "one": 1}, "file_ending": ".nii.gz"}'
    )
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a"]
    assert [case.name for case in dataset.test] == ["b"]
    assert [case.name for case in dataset.unlabelled] == ["c"]


def test_a_table_says_which_cases_are_for_testing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "labels.yaml").write_text("labels: {one: 1}\n")
    table = tmp_path / "dataset.csv"
    table.write_text("case,image,labels,split,stratum\na,a.nii.gz,a.nii.gz,train,MR 1\nb,b.nii.gz,b.nii.gz,Test,\n")
    (tmp_path / "dataset.yaml").write_text("channels: [MR]\nlabels: {one: 1}\n")
    dataset = read_dataset(table)
    assert [(case.name, case.stratum) for case in dataset.cases] == [("a", "MR 1")]
    assert [case.name for case in dataset.test] == ["b"]
    table.write_text("case,image,labels,split\na,a.nii.gz,a.nii.gz,validation\n")
    with pytest.raises(DatasetError, match="line 2: split should be training or test, but is 'validation'"):
        read_dataset(table)
