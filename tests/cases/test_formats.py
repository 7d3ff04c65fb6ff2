"""Every layout gives the same Dataset, and everything that is wrong is told at once."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.cases.case import read_case_image, read_case_labels
from medseg.cases.dataset import Dataset
from medseg.cases.folds import make_folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.errors import DatasetError
from medseg.planning.measure import measure_fingerprint
from medseg.planning.plan import Machine
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan
from medseg.progress import Silent

LAYOUTS = ("decathlon", "nnunet", "folders", "yaml", "csv")


def essence(dataset: Dataset) -> tuple:
    voxels = []
    for case in dataset.cases:
        image = read_case_image(case, len(dataset.channels))
        labels = read_case_labels(case, dataset.labels, image)
        voxels.append((image.array.tobytes(), image.affine.tobytes(), labels.array.tobytes()))
    names = [(case.name, case.group) for case in dataset.cases]
    return dataset.name, dataset.channels, dataset.labels, names, dataset.unlabelled, voxels


@pytest.mark.parametrize("channels", [("MRI",), ("CT", "PET")])
def test_the_same_data_in_every_layout_gives_the_same_dataset_and_folds(tmp_path, written, channels):
    found = {layout: read_dataset(written[layout](tmp_path / layout, channels)) for layout in LAYOUTS}
    first = essence(found["decathlon"])
    assert [name for name, _ in first[3]] == ["Ab_003", "ab_002", "ab_007", "ab_010", "ab_11", "zz-1"]
    for layout in LAYOUTS[1:]:
        assert essence(found[layout]) == first, layout
        assert make_folds(found[layout]) == make_folds(found["decathlon"])


def test_the_same_data_in_every_layout_gives_the_same_fingerprint_and_plan(tmp_path, written):
    results = []
    for layout in LAYOUTS:
        dataset = read_dataset(written[layout](tmp_path / layout, ("MRI",)))
        fingerprint = measure_fingerprint(dataset, "stored", Silent())
        plan = make_plan(fingerprint, dataset.labels, load_preset("nnunet"), Machine(device="any"))
        results.append((fingerprint.content_hash(), plan.content_hash()))
    assert len(set(results)) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_dataset_is_read_back_identically_wherever_it_lies(tmp_path, written, layout):
    dataset = read_dataset(written[layout](tmp_path / layout, ("MRI",)))
    save_dataset(dataset, tmp_path / "elsewhere" / "dataset.yaml")
    save_dataset(dataset, tmp_path / layout / "again.yaml")
    assert read_dataset(tmp_path / "elsewhere") == dataset
    assert read_dataset(tmp_path / layout / "again.yaml") == dataset
    assert str(tmp_path) not in (tmp_path / layout / "again.yaml").read_text()


def test_colours_codes_and_patients_survive(tmp_path, written):
    path = written["yaml"](tmp_path, ("CT",))
    text = path.read_text().replace("value: 3", "value: 3\n  color: [1, 2, 3]\n  code: '10200004'")
    path.write_text(text.replace("- name: zz-1", "- patient: P1\n  name: zz-1"))
    dataset = read_dataset(path)
    assert (dataset.labels.labels[1].color, dataset.labels.labels[1].code) == ((1, 2, 3), "10200004")
    assert dataset.cases[-1].patient == "P1"
    save_dataset(dataset, tmp_path / "copy.yaml")
    assert read_dataset(tmp_path / "copy.yaml") == dataset


def test_macos_leftovers_are_passed_over(tmp_path, written):
    for layout in ("decathlon", "nnunet", "folders"):
        folder = written[layout](tmp_path / layout, ("MRI",))
        for sub in [path for path in folder.iterdir() if path.is_dir()]:
            (sub / "._ab_002.nii.gz").write_bytes(b"junk")
        assert len(read_dataset(folder).cases) == 6


def test_a_decathlon_case_without_its_label_file_becomes_unlabelled_with_a_remark(tmp_path, written):
    folder = written["decathlon"](tmp_path, ("MRI",))
    (folder / "labelsTr/zz-1.nii.gz").unlink()
    (folder / "imagesTs").mkdir()
    (folder / "imagesTs/t_1.nii.gz").write_bytes((folder / "imagesTr/ab_11.nii.gz").read_bytes())
    content = json.loads((folder / "dataset.json").read_text())
    content["test"] = ["./imagesTs/t_1.nii.gz", "./imagesTs/not_downloaded.nii.gz"]
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(folder)
    assert [case.name for case in dataset.unlabelled] == ["t_1", "zz-1"]
    assert len(dataset.cases) == 5
    assert [(x.code, x.case) for x in dataset.remarks] == [("labels-absent", "zz-1")]


def test_old_nnunet_folders_with_a_decathlon_list_find_their_channel_files(tmp_path, written):
    folder = written["nnunet"](tmp_path / "new", ("CT", "PET"))
    content = json.loads((folder / "dataset.json").read_text())
    names = [path.name for path in (folder / "labelsTr").iterdir()]
    content = {
        "name": "tiny",
        "modality": content["channel_names"],
        "labels": content["labels"],
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    assert essence(read_dataset(folder)) == essence(read_dataset(written["decathlon"](tmp_path / "old", ("CT", "PET"))))


def test_nnunets_dictionary_of_paths_is_read(tmp_path, written):
    folder = written["nnunet"](tmp_path / "raw", ("MRI",))
    moved = tmp_path / "moved"
    (folder / "imagesTr").rename(moved)
    content = json.loads((folder / "dataset.json").read_text())
    content["dataset"] = {
        "ab_002": {"images": ["../moved/ab_002_0000.nii.gz"], "label": "labelsTr/ab_002.nii.gz"},
        "zz-1": {"images": [str(moved / "zz-1_0000.nii.gz")], "label": "labelsTr/zz-1.nii.gz"},
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    assert [case.name for case in read_dataset(folder).cases] == ["ab_002", "zz-1"]


@pytest.mark.parametrize(("labels", "words"), [
    ({"background": 0, "whole": [1, 2]}, '"regions_class_order" should list 1 values'),
    ({"background": 0, "whole": [0, 1]}, "one holds the background"),
    ({"background": 0, "whole": [1, "x"]}, "or a list of them where it is a region"),
    ({"background": 0, "a": 1, "ignore": [2, 3]}, "should have one value"),
    ({"background": 0, "a": 1, "ignore": 1}, "the ignore value 1 is the value of 'a'"),
    ({"background": 0, "a": "x"}, "whole number"),
    ({"background": 0, "a": 1, "b": 1}, "same value: 1"),
])  # fmt: skip
def test_labels_that_are_not_understood_are_refused_in_words(tmp_path, written, labels, words):
    folder = written["nnunet"](tmp_path, ("MRI",))
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "labels": labels}))
    with pytest.raises(DatasetError, match=words):
        read_dataset(folder)


def test_labels_and_channels_that_nobody_names_are_discovered(undescribed):
    dataset = read_dataset(undescribed)
    assert (dataset.name, dataset.channels) == ("tiny", ("image",))
    assert (dataset.labels.names, dataset.labels.values) == (("label 3", "label 7"), (0, 3, 7))


def test_names_that_end_in_a_year_are_not_taken_for_channels(undescribed):
    for path in sorted((undescribed / "images").iterdir()):
        other = undescribed / "labels" / path.name
        path.rename(path.with_name(f"{path.name[:-7]}_2019.nii.gz"))
        other.rename(other.with_name(f"{other.name[:-7]}_2019.nii.gz"))
    dataset = read_dataset(undescribed)
    assert len(dataset.cases) == 6
    assert dataset.cases[0].name == "Ab_003_2019"


def test_all_complaints_come_at_once(tmp_path, written):
    folder = written["nnunet"](tmp_path, ("CT", "PET"))
    (folder / "imagesTr/ab_002_0001.nii.gz").unlink()
    (folder / "imagesTr/ab_007_0000.nii.gz").rename(folder / "imagesTr/ab_007.nii.gz")
    (folder / "labelsTr/orphan.nii.gz").write_bytes(b"")
    (folder / "imagesTr/zz-1_0000.nii.gz").rename(folder / "imagesTr/zz 1_0000.nii.gz")
    (folder / "imagesTr/zz-1_0001.nii.gz").rename(folder / "imagesTr/zz 1_0001.nii.gz")
    with pytest.raises(DatasetError) as caught:
        read_dataset(folder)
    found = {(complaint.case, complaint.code) for complaint in caught.value.complaints}
    assert {
        ("ab_002", "wrong-channels"), ("ab_007", "bad-file-name"), ("ab_007", "wrong-channels"),
        ("orphan", "missing-file"), ("zz 1", "bad-case-name"), ("zz-1", "missing-file"),
    } <= found  # fmt: skip


def test_two_files_that_differ_in_their_suffix_are_ambiguous(undescribed):
    (undescribed / "images/zz-1.nii").write_bytes(b"")
    with pytest.raises(DatasetError, match="either could be meant") as caught:
        read_dataset(undescribed)
    assert [(x.case, x.code) for x in caught.value.complaints] == [("zz-1", "ambiguous-sibling")]


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 129, "a b", "naïve"])
def test_case_names_that_could_leave_their_folder_are_refused(tmp_path, written, name):
    path = written["yaml"](tmp_path, ("CT",))
    path.write_text(path.read_text().replace("name: zz-1", f"name: {json.dumps(name)}"))
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    assert [x.code for x in caught.value.complaints] == ["bad-case-name"]


@pytest.mark.parametrize("escape", ["../../etc/passwd", "/etc/passwd", "./imagesTr/../../secret.nii.gz"])
def test_a_decathlon_list_can_not_point_outside_its_folder(tmp_path, written, escape):
    folder = written["decathlon"](tmp_path, ("MRI",))
    content = json.loads((folder / "dataset.json").read_text())
    content["training"][0]["image"] = escape
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="files inside"):
        read_dataset(folder)


def test_missing_files_and_twice_named_cases_of_a_list_are_all_named(tmp_path, written):
    path = written["csv"](tmp_path, ("CT",))
    path.write_text(path.read_text() + "zz-1,images/zz-1.nii.gz,\nnew,images/no.nii.gz,labels/no.nii.gz\nbad,,\n")
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    found = [(x.case, x.code) for x in caught.value.complaints]
    assert found == [("new", "missing-file"), ("new", "missing-file"), ("bad", "missing-file")]


def test_semicolons_and_a_byte_order_mark_of_a_spreadsheet_are_read(tmp_path, written):
    path = written["csv"](tmp_path, ("CT",))
    path.write_text("\ufeff" + path.read_text().replace(",", ";"), encoding="utf-8")
    assert len(read_dataset(path).cases) == 6


def test_an_unknown_column_is_named(tmp_path, written):
    path = written["csv"](tmp_path, ("CT",))
    path.write_text(path.read_text().replace("case,image,labels", "case,image,mask"))
    with pytest.raises(DatasetError, match="not known: mask"):
        read_dataset(path)


def test_an_unknown_layout_says_what_is_understood_and_what_was_found(tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(DatasetError, match=r"holds scans/[\s\S]*Medical Segmentation Decathlon[\s\S]*nnU-Net raw"):
        read_dataset(tmp_path)


def test_a_path_that_is_not_there_says_so(tmp_path):
    with pytest.raises(DatasetError, match="There is no dataset at"):
        read_dataset(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["- a\n", "kind: plan\nformat: 1\n", "cases: 3\n", "a: [\n", "channels: [CT]\n"])
def test_a_damaged_yaml_is_one_sentence(tmp_path, text):
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.yaml"):
        read_dataset(tmp_path / "dataset.yaml")


@pytest.mark.real
def test_the_real_hippocampus_has_200_cases_of_two_structures(real_data: Path):
    dataset = read_dataset(real_data / "hippocampus")
    assert (len(dataset.cases), dataset.channels, dataset.labels.names) == (200, ("MRI",), ("Anterior", "Posterior"))
    image = read_case_image(dataset.cases[0], 1)
    assert set(np.unique(read_case_labels(dataset.cases[0], dataset.labels, image).array)) == {0, 1, 2}


def test_cases_that_are_counted_from_zero_are_not_taken_for_channels(undescribed):
    for sub in ("images", "labels"):
        for number, path in enumerate(sorted((undescribed / sub).iterdir())):
            path.rename(path.with_name(f"scan_{number:04d}.nii.gz"))
    dataset = read_dataset(undescribed)
    assert [case.name for case in dataset.cases] == [f"scan_{number:04d}" for number in range(6)]
    assert dataset.channels == ("image",)


def test_a_table_about_something_else_beside_a_pair_of_folders_is_passed_over(undescribed):
    (undescribed / "ages.csv").write_text("patient,age\nab_002,61\n")
    assert len(read_dataset(undescribed).cases) == 6
    (undescribed / "cases.csv").write_text("Case,image,patient\nzz-1,images/zz-1.nii.gz,P1\n")
    with pytest.raises(DatasetError, match="not known: Case"):
        read_dataset(undescribed)
