"""Folds are nnU-Net's, and never split a patient."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import Folds, make_folds
from medseg.cases.formats import read_dataset
from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError, SettingsError


def dataset_of(patients: dict[str, str | None]) -> Dataset:
    cases = tuple(Case(name, (Path(name),), Path(name), patient) for name, patient in sorted(patients.items()))
    return Dataset("d", ("CT",), LabelTable(labels=()), cases)


def test_folds_over_260_names_are_nnunets():
    names = [f"hippocampus_{number:03d}" for number in range(1, 521, 2)]
    folds = make_folds(dataset_of(dict.fromkeys(names)))
    expected = KFold(n_splits=5, shuffle=True, random_state=12345).split(np.sort(names))
    for fold, (training, validation) in enumerate(expected):
        got = folds.split(fold)
        assert (len(got[0]), len(got[1])) == (208, 52)
        assert got == (tuple(names[i] for i in training), tuple(names[i] for i in validation))


def test_patients_that_are_all_distinct_change_nothing():
    names = [f"c{number:02d}" for number in range(23)]
    plain = make_folds(dataset_of(dict.fromkeys(names)))
    assert make_folds(dataset_of({name: f"p{99 - i}" for i, name in enumerate(names)})) == plain


def test_a_patient_is_never_split_and_every_case_is_held_out_once():
    patients: dict[str, str | None] = {f"c{i:03d}": f"p{i * i % 17}" for i in range(60)}
    patients |= {"single": None}
    folds = make_folds(dataset_of(patients))
    held_out = []
    for fold in range(len(folds.folds)):
        training, validation = folds.split(fold)
        assert not {patients[x] or x for x in training} & {patients[x] or x for x in validation}
        assert sorted(training + validation) == sorted(patients)
        held_out += validation
    assert sorted(held_out) == sorted(patients)


def test_fewer_patients_than_folds_give_fewer_folds():
    folds = make_folds(dataset_of({"a": "p", "b": "p", "c": "q", "d": "r"}))
    assert len(folds.folds) == 3
    assert "n_splits=3" in folds.rule


def test_one_patient_can_only_be_trained_on_as_a_whole():
    folds = make_folds(dataset_of({"a": "p", "b": "p"}))
    assert folds.split("full") == (("a", "b"), ())
    with pytest.raises(SettingsError, match="fold=full"):
        folds.split(0)


def test_a_fold_beyond_the_list_is_nnunets_random_fifth():
    names = [f"c{number:02d}" for number in range(20)]
    training, validation = make_folds(dataset_of(dict.fromkeys(names))).split(7)
    picked = np.random.RandomState(12345 + 7).choice(20, 16, replace=False)
    assert training == tuple(sorted(names[i] for i in picked))
    assert len(validation) == 4


def test_folds_are_saved_and_read_back(tmp_path):
    folds = make_folds(dataset_of({"b": None, "a": "p", "c": "p"}))
    folds.save(tmp_path / "folds.yaml")
    assert Folds.load(tmp_path / "folds.yaml") == folds


def test_folds_edited_by_hand_are_checked():
    folds = make_folds(dataset_of({"a": "p", "b": "p", "c": "q"}))
    content = folds.content()
    content["folds"] = [{"validation": ["a"]}, {"validation": ["gone"]}]
    edited = Folds.validated({k: v for k, v in content.items() if k not in {"kind", "format"}}, "here")
    with pytest.raises(DatasetError, match="splits a patient: b"):
        edited.split(0)
    with pytest.raises(DatasetError, match="not in the dataset: gone"):
        edited.split(1)


@pytest.mark.parametrize("fold", [-1, -5])
def test_a_negative_fold_is_refused(fold):
    with pytest.raises(SettingsError, match="0 or more"):
        make_folds(dataset_of(dict.fromkeys("abcdefg"))).split(fold)


@pytest.mark.real
def test_the_real_hippocampus_holds_out_the_cases_that_nnunet_held_out(real_data: Path):
    folds = make_folds(read_dataset(real_data / "hippocampus"))
    assert [len(fold.validation) for fold in folds.folds] == [40] * 5
    predicted = {path.name[:15] for path in (real_data / "nnunet_model/predictions_plain").glob("*.nii.gz")}
    assert len(predicted) == 8
    assert predicted <= set(folds.split(0)[1])
