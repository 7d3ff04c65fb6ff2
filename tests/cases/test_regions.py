"""Regions that overlap, and voxels that nobody has annotated, as users write them down and as medseg counts them."""

import json

import numpy as np
import pytest

from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.labels import Label, LabelTable
from medseg.cases.regions import Region
from medseg.documents import dump_yaml
from medseg.errors import DatasetError

STRUCTURES = (Label(name="oedema", value=3), Label(name="necrosis", value=5), Label(name="enhancing", value=7))
WHOLE = Region(name="whole tumour", labels=("oedema", "necrosis", "enhancing"), written=3, color=(1, 2, 3))
CORE = Region(name="tumour core", labels=("necrosis", "enhancing"), written=5)
ENHANCING = Region(name="enhancing tumour", labels=("enhancing",), written=7)
TABLE = LabelTable(labels=STRUCTURES, regions=(WHOLE, CORE, ENHANCING), ignore=4)
PLAIN = LabelTable(labels=STRUCTURES)


def test_targets_are_the_structures_or_where_there_are_any_the_regions():
    assert [(t.name, t.indices, t.written_index) for t in PLAIN.targets] == [
        ("oedema", (1,), 1), ("necrosis", (2,), 2), ("enhancing", (3,), 3),
    ]  # fmt: skip
    assert [(t.name, t.indices, t.written_index) for t in TABLE.targets] == [
        ("whole tumour", (1, 2, 3), 1), ("tumour core", (2, 3), 2), ("enhancing tumour", (3,), 3),
    ]  # fmt: skip
    assert (TABLE.targets[0].color, TABLE.targets[1].color) == ((1, 2, 3), None)


def test_a_network_has_an_output_for_each_class_or_for_each_region():
    assert (PLAIN.activation, PLAIN.outputs, len(PLAIN)) == ("softmax", 4, 4)
    assert (TABLE.activation, TABLE.outputs, len(TABLE)) == ("sigmoid", 3, 4)


def test_a_target_lies_where_any_of_its_labels_does():
    labels = np.array([[[0, 1, 2, 3, 4]]], np.uint8)
    assert [t.mask(labels).ravel().tolist() for t in TABLE.targets] == [
        [False, True, True, True, False],
        [False, False, True, True, False],
        [False, False, False, True, False],
    ]


def test_the_ignore_value_lies_after_the_last_structure_and_counts_as_no_class():
    assert (TABLE.ignore_index, PLAIN.ignore_index, TABLE.values) == (4, None, (0, 3, 5, 7))
    assert (TABLE.outside_index, PLAIN.outside_index) == (4, 0)
    assert TABLE.to_indices(np.array([0, 7, 4, 3])).tolist() == [0, 3, 4, 1]
    assert TABLE.to_values(np.array([0, 1, 2, 3])).tolist() == [0, 3, 5, 7]
    with pytest.raises(DatasetError, match=r"the value \[4\]"):
        PLAIN.to_indices(np.array([0, 4]))
    most = LabelTable(labels=tuple(Label(name=str(value), value=value) for value in range(1, 256)), ignore=-1)
    assert most.to_indices(np.array([-1, 255])).tolist() == [256, 255]


def test_a_table_survives_its_file(tmp_path):
    TABLE.save(tmp_path / "labels.yaml")
    assert LabelTable.load(tmp_path / "labels.yaml") == TABLE


@pytest.mark.parametrize(("change", "words"), [
    ({"ignore": 7}, "the ignore value 7 is the value of 'enhancing'"),
    ({"ignore": 0}, "the ignore value 0 is the value of 'background'"),
    ({"regions": (CORE, CORE)}, "two regions have the same name: tumour core"),
    ({"regions": (WHOLE, WHOLE.model_copy(update={"name": "all of it"}))}, "join the same labels"),
    ({"regions": (Region(name="r", labels=("cyst",), written=3),)}, "joins cyst, which is no structure"),
    ({"regions": (Region(name="r", labels=("background",), written=0),)}, "joins background, which is no structure"),
    ({"regions": (Region(name="r", labels=("oedema",), written=5),)}, "is written as 5, which is the value of none"),
    ({"regions": (ENHANCING, CORE, WHOLE)}, "List each region before those inside it"),
    ({"regions": (WHOLE.model_copy(update={"written": 7}), CORE, ENHANCING)}, "regions overwrite one another"),
    ({"labels": (*STRUCTURES, Label(name="Ignore", value=9))}, "'ignore' is no structure"),
])  # fmt: skip
def test_a_table_that_contradicts_itself_is_refused_in_words(change, words):
    content = {"labels": STRUCTURES, "regions": (), "ignore": None} | change
    with pytest.raises(DatasetError, match=words):
        LabelTable.validated(content, "labels.yaml")


@pytest.mark.parametrize(("labels", "words"), [
    (("oedema", "oedema"), "joins oedema twice"),
    ((), "at least 1 item"),
])  # fmt: skip
def test_a_region_joins_something_and_everything_once(labels, words):
    content = {"labels": STRUCTURES, "regions": [{"name": "r", "labels": labels, "written": 3}]}
    with pytest.raises(DatasetError, match=words):
        LabelTable.validated(content, "labels.yaml")


def test_regions_that_overlap_without_a_label_for_what_they_share_are_refused():
    left = Region(name="left", labels=("oedema", "necrosis"), written=3)
    right = Region(name="right", labels=("necrosis", "enhancing"), written=7)
    with pytest.raises(DatasetError, match="need a label for what they share"):
        LabelTable.validated({"labels": STRUCTURES, "regions": (left, right)}, "labels.yaml")


DESCRIPTION = {
    "name": "tiny",
    "channels": ["CT"],
    "labels": {"background": 0, "liver": 3, "left kidney": 7},
    "regions": {"abdomen": ["liver", "left kidney"], "kidney": ["left kidney"]},
    "ignore": 255,
}


@pytest.mark.parametrize("name", ["dataset.yaml", "labels.yaml"])
def test_regions_are_written_down_in_one_line_each(undescribed, name):
    content = {key: DESCRIPTION[key] for key in ("labels", "regions", "ignore")}
    (undescribed / name).write_text(dump_yaml(content))
    table = read_dataset(undescribed).labels
    assert [(r.name, r.labels, r.written) for r in table.regions] == [
        ("abdomen", ("liver", "left kidney"), 3), ("kidney", ("left kidney",), 7),
    ]  # fmt: skip
    assert table.ignore == 255


def test_a_saved_dataset_keeps_its_regions_and_ignore_value(undescribed, tmp_path):
    (undescribed / "dataset.yaml").write_text(dump_yaml(DESCRIPTION))
    dataset = read_dataset(undescribed)
    save_dataset(dataset, tmp_path / "copy" / "dataset.yaml")
    assert read_dataset(tmp_path / "copy") == dataset


@pytest.mark.parametrize(("content", "words"), [
    ({"regions": {"all": ["label 3"]}}, "need 'labels' beside them"),
    ({"labels": {"a": 3, "b": 7}, "regions": {"b": ["b"], "all": ["a", "b"]}}, "has no label of its own"),
    ({"labels": {"a": 3, "ignore": 7}}, "'ignore' is no structure"),
])  # fmt: skip
def test_a_description_that_can_not_be_meant_is_refused_in_words(undescribed, content, words):
    (undescribed / "dataset.yaml").write_text(dump_yaml(content))
    with pytest.raises(DatasetError, match=words):
        read_dataset(undescribed)


def write_nnunet_labels(folder, labels, order=None):
    content = json.loads((folder / "dataset.json").read_text()) | {"labels": labels}
    (folder / "dataset.json").write_text(json.dumps(content | ({"regions_class_order": order} if order else {})))


def test_nnunets_regions_and_ignore_label_are_read(tmp_path, written):
    folder = written["nnunet"](tmp_path, ("MRI",))
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    write_nnunet_labels(folder, labels, [1, 2, 3])
    table = read_dataset(folder).labels
    # Label 3 is a region by itself and takes its name; the others have none in nnU-Net.
    assert table.names == ("label 1", "label 2", "enhancing")
    assert [(t.name, t.indices, t.written_index) for t in table.targets] == [
        ("whole", (1, 2, 3), 1), ("core", (2, 3), 2), ("enhancing", (3,), 3),
    ]  # fmt: skip
    assert (table.ignore, table.ignore_index) == (4, 4)


def test_nnunets_lists_of_one_value_are_plain_labels(tmp_path, written):
    folder = written["nnunet"](tmp_path, ("MRI",))
    write_nnunet_labels(folder, {"background": 0, "a": [3], "b": 7})
    table = read_dataset(folder).labels
    assert (table.names, table.values, table.regions) == (("a", "b"), (0, 3, 7), ())
