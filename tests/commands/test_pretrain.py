"""``medseg pretrain``: images alone make a start for training, the same on every resume, and no more than a start."""

import json
import shutil
from dataclasses import replace

import pytest

from medseg.cases.dataset import Dataset
from medseg.cases.folds import Folds, make_folds
from medseg.cases.formats import save_dataset
from medseg.cli import main
from medseg.files import hash_file
from medseg.networks.weights import load_weights
from medseg.training.recipe import Recipe

from tiny import TABLE, write_tiny_dataset, write_tiny_workspace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_tiny_workspace(tmp_path)


def pretrain(workspace, *words):
    return main(["pretrain", f"workspace={workspace}", "device=cpu", *words])


def train(workspace, *words):
    return main(["train", f"workspace={workspace}", "device=cpu", "validate_fold=false", *words])


def test_it_leaves_out_the_fold_and_resumes_to_the_same_bytes(workspace, capsys):
    assert pretrain(workspace, "iterations=4", "save_every=0", "network.name=attention_unet") == 0
    shown = capsys.readouterr().out
    assert "4 images, 1 held out" in shown
    assert "Of the variance of hidden voxels" in shown
    fold = workspace / "pretrained/3d_fullres/fold_0"
    for name in ("restored.png", "curves.png"):
        assert (fold / name).read_bytes().startswith(b"\x89PNG")
    recipe = Recipe.load(fold / "recipe.json")
    assert recipe.pretraining.block == (2, 2, 2)
    assert not set(recipe.training_cases) & set(recipe.validation_cases)
    record = json.loads((fold / "run.json").read_text())
    assert record["command"] == "pretrain"
    assert set(record["facts"]["restored_variance"]) == set(recipe.validation_cases)
    expected = hash_file(fold / "weights.safetensors")
    for leftover in ("weights.safetensors", "checkpoint_0000004.json"):
        (fold / leftover).unlink()
    assert pretrain(workspace, "resume=true") == 0
    assert hash_file(fold / "weights.safetensors") == expected
    assert pretrain(workspace, "resume=true", "hidden=0.5") == 2
    assert "settles hidden already" in capsys.readouterr().err
    assert pretrain(workspace) == 2
    assert "is trained already" in capsys.readouterr().err


def test_its_encoder_and_decoder_begin_a_training_and_its_head_does_not(workspace, capsys):
    assert pretrain(workspace, "iterations=2") == 0
    source = load_weights(workspace / "pretrained/3d_fullres/fold_0/weights.safetensors")[0]
    assert train(workspace, f"init_from={workspace / 'pretrained'}", "freeze=encoder", "iterations=2") == 0
    shown = capsys.readouterr().out
    assert "Start from" in shown
    assert "held out here" not in shown
    trained = load_weights(workspace / "3d_fullres/fold_0/weights.safetensors")[0]
    assert all(trained[name].equal(source[name]) for name in source if name.startswith("encoder."))
    start = Recipe.load(workspace / "3d_fullres/fold_0/recipe.json").start
    heads = sum(tensor.numel() for name, tensor in trained.items() if ".heads." in name)
    assert start.parameters["new"] == heads

    words = ("network.name=attention_unet", "iterations=1", "fold=1")
    assert train(workspace, f"init_from={workspace / 'pretrained'}", *words) == 0
    assert "restore images that are held out here too" in capsys.readouterr().out
    start = Recipe.load(workspace / "3d_fullres/fold_1/recipe.json").start
    assert start.parameters["copied"] >= sum(t.numel() for name, t in source.items() if name.startswith("encoder."))


def test_a_folder_of_images_without_labels_is_enough(workspace, tmp_path, capsys):
    more = write_tiny_dataset(tmp_path / "more", 3, first=70)
    shutil.rmtree(tmp_path / "more/labels")
    words = (f"images={tmp_path / 'more/images'}", "iterations=2")
    assert pretrain(workspace, *words) == 0
    recipe = Recipe.load(workspace / "pretrained/3d_fullres/fold_0/recipe.json")
    assert sorted((*recipe.training_cases, *recipe.validation_cases)) == ["70", "71", "72"]
    assert len(more.cases) == 3
    assert train(workspace, f"init_from={workspace / 'pretrained'}", "iterations=1", "fold=1") == 0
    assert "held out here" not in capsys.readouterr().out


def test_other_images_of_a_held_out_patient_or_one_of_the_test_set_are_left_out(workspace, tmp_path, capsys):
    first, *others = write_tiny_dataset(tmp_path / "data", 8).cases
    named = [
        first,
        *others[:3],
        *(replace(case, labels=None) for case in others[3:6]),
        replace(others[6], split="test"),
    ]
    patients = ["a", "b", "c", "d", "a", "e", "t", "t"]
    cases = [replace(case, patient=patient) for case, patient in zip(named, patients, strict=True)]
    dataset = Dataset("tiny", ("MR",), TABLE, tuple(cases[:4]), tuple(cases[4:7]), tuple(cases[7:]))
    save_dataset(dataset, workspace / "dataset.yaml")
    make_folds(dataset, 4).save(workspace / "folds.yaml")
    folds = Folds.load(workspace / "folds.yaml")
    fold = next(n for n, one in enumerate(folds.folds) if first.name in one.validation)
    assert pretrain(workspace, "iterations=1", f"fold={fold}") == 0
    recipe = Recipe.load(workspace / f"pretrained/3d_fullres/fold_{fold}/recipe.json")
    assert recipe.validation_cases == (first.name,)
    assert recipe.training_cases == tuple(case.name for case in (*others[:3], others[4]))


def test_in_2d_and_for_every_image_it_shows_training_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace = write_tiny_workspace(tmp_path, dimensions=2)
    assert pretrain(workspace, "iterations=2", "fold=full") == 0
    assert "5 training images" in capsys.readouterr().out
    assert (workspace / "pretrained/2d/fold_full/restored.png").is_file()


def test_a_bundle_of_it_says_what_it_is_for_and_begins_a_training(workspace, tmp_path, capsys):
    assert pretrain(workspace, "iterations=1") == 0
    bundle = tmp_path / "start"
    assert main(["bundle", f"workspace={workspace / 'pretrained'}", f"output={bundle}"]) == 0
    assert f"Next: medseg train init_from={bundle}" in capsys.readouterr().out
    card = (bundle / "README.md").read_text()
    assert "A start for training" in card
    assert "medseg predict" not in card
    assert train(workspace, f"init_from={bundle}", "iterations=1") == 0


def test_it_is_no_model_to_predict_with(workspace, tmp_path, capsys):
    assert pretrain(workspace, "iterations=1") == 0
    words = [f"model={workspace / 'pretrained'}", f"input={tmp_path / 'data/images'}", f"output={tmp_path / 'o'}"]
    assert main(["predict", *words]) == 2
    assert "finds no structures yet. Begin a training with it" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("block=[16,16,16]",), "smaller than the patch"),
        (("block=[0,2,2]",), "at least [1,1,1]"),
        (("hidden=1",), "hidden"),
        (("images=nowhere",), "nowhere does not exist"),
        (("init_from=W",), "no setting 'init_from'"),
    ],
)
def test_what_can_not_be_is_refused_and_leaves_nothing(workspace, capsys, words, said):
    assert pretrain(workspace, "iterations=1", *words) == 2
    assert said in capsys.readouterr().err
    assert not (workspace / "pretrained").exists()


@pytest.mark.slow
def test_it_learns_to_restore_more_than_a_constant(workspace):
    assert pretrain(workspace, "iterations=400") == 0
    record = json.loads((workspace / "pretrained/3d_fullres/fold_0/run.json").read_text())
    assert min(record["facts"]["restored_variance"].values()) > 0.2
