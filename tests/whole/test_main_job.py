"""The main job from the command line: plan, train, bundle, predict, evaluate, each as a user would type it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.cases.formats import save_dataset
from medseg.cli import main
from medseg.files import hash_file

from tiny import write_tiny_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny dataset, planned and trained for a few iterations on fold 0."""
    folder = tmp_path_factory.mktemp("whole")
    save_dataset(write_tiny_dataset(folder / "data", 10), folder / "data" / "dataset.yaml")
    workspace = f"workspace={folder / 'W'}"
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["plan", f"dataset={folder / 'data'}", workspace, "device=cpu"]) == 0
        words = ["iterations=40", "device=cpu", "network.features=[4,8]", "network.strides=[[1,1,1],[2,2,2]]"]
        words += ["network.kernels=[[3,3,3],[3,3,3]]", "network.encoder_convolutions=[1,1]"]
        words += ["network.decoder_convolutions=[1]", "patch_size=[16,16,16]"]
        assert main(["train", "fold=0", *words]) == 0
    finally:
        os.chdir(here)
    return folder


def test_training_leaves_scores_curves_pictures_and_a_record(trained: Path) -> None:
    fold = trained / "W" / "3d_fullres" / "fold_0"
    scores = json.loads((fold / "scores.json").read_text())
    assert scores["kind"] == "scores"
    for name in ("curves.png", "best_case.png", "worst_case.png", "scores.csv", "log.csv", "weights.safetensors"):
        assert (fold / name).stat().st_size > 0, name
    record = json.loads((fold / "run.json").read_text())
    assert record["words"]["iterations"] == "40"
    assert record["sources"]["iterations"] == "words"
    assert record["sources"]["fold"] == "words"
    assert record["sources"]["save_every"] == "default"
    assert record["settings"]["recipe"]["configuration"]["patch_size"] == [16, 16, 16]


def test_the_workspace_and_its_bundle_predict_the_same_labels_on_the_files_own_grid(trained: Path) -> None:
    assert main(["bundle", f"workspace={trained / 'W'}", f"output={trained / 'bundle'}"]) == 0
    source = trained / "data" / "images"
    for model in ("W", "bundle"):
        words = [f"input={source}", f"output={trained / f'out_{model}'}", f"model={trained / model}", "device=cpu"]
        assert main(["predict", *words]) == 0
    outputs = sorted((trained / "out_W").glob("*.nii.gz"))
    assert len(outputs) == 10
    for path in outputs:
        assert hash_file(path) == hash_file(trained / "out_bundle" / path.name)
        assert np.array_equal(nibabel.load(path).affine, nibabel.load(source / path.name).affine)


def test_predictions_are_scored_in_a_table_and_files(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions = trained / "W" / "3d_fullres" / "fold_0" / "validation"
    labels = trained / "labels_of_fold"
    labels.mkdir(exist_ok=True)
    for path in predictions.glob("*.nii.gz"):
        (labels / path.name).write_bytes((trained / "data" / "labels" / f"{int(path.name[5:7])}.nii.gz").read_bytes())
    words = [f"predictions={predictions}", f"labels={labels}", f"output={trained / 'evaluated'}"]
    assert main(["evaluate", *words]) == 0
    assert "ball" in capsys.readouterr().out
    assert list((trained / "evaluated").glob("*.csv"))


def test_a_trained_fold_is_not_overwritten_by_accident(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hash_file(trained / "W" / "3d_fullres" / "fold_0" / "weights.safetensors")
    assert main(["train", "fold=0", f"workspace={trained / 'W'}", "device=cpu"]) == 2
    assert "restart=true" in capsys.readouterr().err
    assert hash_file(trained / "W" / "3d_fullres" / "fold_0" / "weights.safetensors") == before


def test_a_finished_fold_can_be_scored_again_with_resume(trained: Path) -> None:
    fold = trained / "W" / "3d_fullres" / "fold_0"
    weights, scores = hash_file(fold / "weights.safetensors"), (fold / "scores.csv").read_text()
    (fold / "scores.csv").unlink()
    assert main(["train", "fold=0", f"workspace={trained / 'W'}", "device=cpu", "resume=true"]) == 0
    assert hash_file(fold / "weights.safetensors") == weights
    assert (fold / "scores.csv").read_text() == scores


def test_one_broken_case_does_not_stop_the_others(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = trained / "mixed"
    source.mkdir()
    for index in range(3):
        (source / f"{index}.nii.gz").write_bytes((trained / "data" / "images" / f"{index}.nii.gz").read_bytes())
    broken = source / "1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    words = [f"input={source}", f"output={trained / 'mixed_out'}", f"model={trained / 'W'}", "device=cpu"]
    assert main(["predict", *words]) == 2
    shown = capsys.readouterr()
    assert "1.nii.gz" in shown.err + shown.out
    assert sorted(p.name for p in (trained / "mixed_out").glob("*.nii.gz")) == ["0.nii.gz", "2.nii.gz"]


@pytest.mark.slow
@pytest.mark.parametrize("amount", ["iterations=4", "budget=10s"])
def test_two_cpu_processes_train_one_network_together(trained: Path, amount: str) -> None:
    words = [f"workspace={trained / 'W'}", "fold=1", "devices=2", "device=cpu", f"{amount}", "validate_fold=false"]
    # Batch Dice adds up over the processes, which each measure the time by themselves.
    words += ["batch_dice=true", "network.base_features=4"]
    done = subprocess.run(
        [sys.executable, "-m", "medseg", "train", *words], cwd=trained, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    recipe = json.loads((trained / "W" / "3d_fullres" / "fold_1" / "recipe.json").read_text())
    assert recipe["devices"] == 2
    resume = [f"workspace={trained / 'W'}", "fold=1", "device=cpu", "resume=true"]
    assert main(["train", *resume]) == 2
    assert (trained / "W" / "3d_fullres" / "fold_1" / "weights.safetensors").exists()
    shutil.rmtree(trained / "W" / "3d_fullres" / "fold_1")


@pytest.mark.slow
def test_a_2d_network_trains_and_predicts_on_the_same_data(trained: Path) -> None:
    words = [f"workspace={trained / 'W'}", "fold=0", "configuration=2d", "device=cpu", "iterations=4", "batch_size=2"]
    assert main(["train", *words]) == 0
    assert (trained / "W" / "2d" / "fold_0" / "scores.csv").exists()
