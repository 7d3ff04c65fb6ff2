"""``medseg evaluate`` on folders of real files."""

import csv
import json

import numpy as np
import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.cli import main
from medseg.evaluation.scores import Scores
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume

AFFINE = np.array([[0, 0, 1.0, -5], [0, 1.0, 0, 7], [2.0, 0, 0, 3], [0, 0, 0, 1]])
TABLE = LabelTable(
    labels=(
        Label(name="background", value=0),
        Label(name="liver", value=3, color=(200, 30, 40)),
        Label(name="lesion", value=7),
    )
)


def labels_of(index):
    labels = np.zeros((10, 14, 12), np.uint8)
    labels[2:8, 2:10, 2 + index : 7 + index] = 3
    labels[3:6, 4:7, 3 + index : 5 + index] = 7
    return labels


def write(folder, name, labels, affine=AFFINE):
    write_labels(folder / name, labels, Volume(labels, affine))


@pytest.fixture
def folders(tmp_path):
    """Three cases, the third predicted one voxel off."""
    for index in range(3):
        labels = labels_of(index)
        write(tmp_path / "labels", f"case_{index}.nii.gz", labels)
        write(tmp_path / "predictions", f"case_{index}.nii.gz", np.roll(labels, index == 2, axis=1))
    TABLE.save(tmp_path / "predictions/labels.yaml")
    return tmp_path


def evaluate(folder, *words):
    return main(["evaluate", f"predictions={folder / 'predictions'}", f"labels={folder / 'labels'}", *words])


def scores_in(folder):
    return Scores.load(folder / "predictions/evaluation/scores.json")


def test_scores_tables_and_pictures_are_written(folders, capsys):
    assert evaluate(folders) == 0
    scores = scores_in(folders)
    assert [case.case for case in scores.cases] == ["case_0", "case_1", "case_2"]
    assert [structure.name for structure in scores.structures] == ["liver", "lesion"]
    assert [case.mean_dice for case in scores.cases[:2]] == [1, 1]
    printed = capsys.readouterr().out
    assert "liver" in printed
    assert "Worst case, case_2" in printed
    output = folders / "predictions/evaluation"
    for name in ("worst_case.png", "scores.png"):
        assert (output / name).stat().st_size > 5000
    with (output / "scores.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    assert json.loads((output / "run.json").read_text())["facts"]["failed"] == {}


def test_a_second_run_finds_the_same_files_and_numbers(folders):
    assert evaluate(folders) == 0
    first = (folders / "predictions/evaluation/scores.json").read_bytes()
    assert evaluate(folders, "workers=3") == 0
    assert (folders / "predictions/evaluation/scores.json").read_bytes() == first


def test_a_mirrored_prediction_is_an_error_and_the_others_are_scored(folders, capsys):
    mirrored = AFFINE.copy()
    mirrored[0] *= -1
    write(folders / "predictions", "case_1.nii.gz", labels_of(1), mirrored)
    assert evaluate(folders) == 2
    assert [case.case for case in scores_in(folders).cases] == ["case_0", "case_2"]
    assert "Not scored, case_1: The prediction lies elsewhere than the labels" in capsys.readouterr().out


def test_bad_files_are_all_listed_and_the_rest_is_scored(folders, capsys):
    (folders / "predictions/case_0.nii.gz").write_bytes(b"no image at all")
    write(folders / "predictions", "case_1.nii.gz", np.full((10, 14, 12), 9, np.uint8))
    write(folders / "predictions", "case_9.nii.gz", labels_of(0))
    write(folders / "predictions", "case_2.mha", labels_of(2))
    write(folders / "labels", "case_5.nii.gz", labels_of(0))
    write(folders / "predictions", "case_6.nii.gz", labels_of(0))
    write(folders / "labels", "case_6.nii.gz", labels_of(0))
    assert evaluate(folders) == 2
    assert [case.case for case in scores_in(folders).cases] == ["case_6"]
    printed = capsys.readouterr().out
    assert "Not scored, case_0" in printed
    assert "Not scored, case_1" in printed
    assert "value [9]" in printed
    assert "Not scored, case_2: case_2.mha and case_2.nii.gz" in printed
    assert "Not scored, case_9" in printed
    assert "1 labels have no prediction and count nowhere: case_5." in printed


def test_labels_without_prediction_fail_where_all_are_asked_for(folders, capsys):
    write(folders / "labels", "case_5.nii.gz", labels_of(0))
    assert evaluate(folders) == 0
    assert evaluate(folders, "complete=true") == 2
    assert "Not scored, case_5" in capsys.readouterr().out


def test_without_a_table_structures_are_named_by_their_values(folders):
    (folders / "predictions/labels.yaml").unlink()
    assert evaluate(folders) == 0
    assert [structure.name for structure in scores_in(folders).structures] == ["label 3", "label 7"]


def test_a_given_table_names_the_structures(folders):
    other = TABLE.model_copy(update={"labels": (*TABLE.labels[:2], Label(name="tumour", value=7))})
    other.save(folders / "other.yaml")
    assert evaluate(folders, f"label_table={folders / 'other.yaml'}", f"output={folders / 'out'}") == 0
    assert [s.name for s in Scores.load(folders / "out/scores.json").structures] == ["liver", "tumour"]


def test_the_worst_case_is_drawn_over_its_image(folders, capsys):
    image = np.random.default_rng(0).normal(size=(1, 10, 14, 12)).astype(np.float32)
    write_image(folders / "images/case_2_0000.nii.gz", image, Volume(image, AFFINE))
    assert evaluate(folders) == 0
    without = (folders / "predictions/evaluation/worst_case.png").stat().st_size
    assert evaluate(folders, f"images={folders / 'images'}") == 0
    assert (folders / "predictions/evaluation/worst_case.png").stat().st_size > without
    assert "labels only" not in capsys.readouterr().out


def test_a_missing_image_costs_the_picture_its_column_only(folders, capsys):
    assert evaluate(folders, f"images={folders / 'nowhere'}") == 0
    assert "there is no image of 'case_2'" in capsys.readouterr().out


def test_other_formats_pair_by_name_and_two_files_pair_by_being_given(folders):
    write(folders / "mha", "case_0.mha", labels_of(0))
    words = [f"predictions={folders / 'mha'}", f"labels={folders / 'labels'}", f"output={folders / 'a'}"]
    assert main(["evaluate", *words, "picture=false"]) == 0
    files = [f"predictions={folders / 'mha/case_0.mha'}", f"labels={folders / 'labels/case_0.nii.gz'}"]
    assert main(["evaluate", *files, f"output={folders / 'b'}", "picture=false"]) == 0
    assert Scores.load(folders / "a/scores.json") == Scores.load(folders / "b/scores.json")
    assert not (folders / "b/worst_case.png").exists()


def test_flat_images_are_scored(tmp_path):
    for folder in ("labels", "predictions"):
        write(tmp_path / folder, "a.png", labels_of(0)[3:4], np.eye(4)[[2, 1, 0, 3]])
    assert evaluate(tmp_path) == 0
    assert scores_in(tmp_path).mean_dice == 1


def test_when_no_case_can_be_scored_the_exit_code_says_so(tmp_path, capsys):
    write(tmp_path / "predictions", "a.nii.gz", labels_of(0))
    write(tmp_path / "labels", "b.nii.gz", labels_of(0))
    assert evaluate(tmp_path) == 2
    assert "Not scored, a" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["predictions=no", "labels=no"], ["predictions=.", "labels=."]])
def test_folders_that_cannot_be_compared_are_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    assert "medseg evaluate:" in capsys.readouterr().err


def test_a_folder_without_label_files_is_refused(tmp_path, capsys):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "labels").mkdir()
    assert evaluate(tmp_path) == 2
    assert "There is no label file" in capsys.readouterr().err


def test_regions_and_voxels_that_nobody_annotated_follow_the_label_table(folders):
    (folders / "predictions/labels.yaml").unlink()
    (folders / "table.yaml").write_text(
        "labels: {liver: 3, lesion: 7}\nregions: {whole liver: [liver, lesion], lesion: [lesion]}\nignore: 200\n"
    )
    assert evaluate(folders, f"label_table={folders / 'table.yaml'}") == 0
    full = scores_in(folders)
    assert [structure.name for structure in full.structures] == ["whole liver", "lesion"]
    assert full.cases[2].structures[0].dice == pytest.approx(2 * 6 * 7 * 5 / (2 * 6 * 8 * 5))
    labels = labels_of(2)
    labels[:, 8:] = 200
    write(folders / "labels", "case_2.nii.gz", labels)
    assert evaluate(folders, f"label_table={folders / 'table.yaml'}") == 0
    part = scores_in(folders)
    assert part.cases[2].structures[0].dice == pytest.approx(2 * 5 / (5 + 6))
    assert part.cases[:2] == full.cases[:2]


def test_a_label_table_that_names_nothing_is_refused(folders, capsys):
    (folders / "table.yaml").write_text("channels: [CT]\n")
    assert evaluate(folders, f"label_table={folders / 'table.yaml'}") == 2
    assert "names no labels" in capsys.readouterr().err
