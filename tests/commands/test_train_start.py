"""``init_from=``: a training begins with what fits of a trained model, says how much that is, and keeps its origin."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.nnunet_cases import MODELS
from tiny_nnunet import write_nnunet_model

from medseg.cases.labels import Label, LabelTable
from medseg.cli import main
from medseg.files import hash_file
from medseg.inference.bundle import Manifest, open_model
from medseg.inference.nnunet_model import import_nnunet
from medseg.networks.weights import load_weights

from tiny import write_tiny_workspace

OTHER = LabelTable(labels=(Label(name="Box", value=2), Label(name="globe", value=1)))
"""The same structures, one of them under another name."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one trained fold that knows the ball and the box."""
    folder = tmp_path_factory.mktemp("source")
    workspace = write_tiny_workspace(folder)
    words = [f"workspace={workspace}", "device=cpu", "iterations=2", "validate_fold=false"]
    assert main(["train", *words]) == 0
    assert main(["bundle", f"workspace={workspace}", f"output={folder / 'bundle'}"]) == 0
    return folder / "bundle"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_tiny_workspace(tmp_path, OTHER)


def train(workspace: Path, *words: str) -> int:
    return main(["train", f"workspace={workspace}", "device=cpu", "validate_fold=false", *words])


def begun(workspace: Path) -> tuple[Path, dict[str, Any]]:
    fold = workspace / "3d_fullres" / "fold_0"
    return fold, json.loads((fold / "recipe.json").read_text())["start"]


def test_it_says_what_was_copied_and_the_bundle_still_knows_where_it_comes_from(
    workspace: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workspace, f"init_from={source}", "iterations=2") == 0
    shown = capsys.readouterr().out
    assert "Start from" in shown
    assert "copied tensors (share)" in shown
    identity = open_model(source).load().identity
    fold, start = begun(workspace)
    assert (start["identity"], start["configuration"], start["fold"]) == (identity, "3d_fullres", 0)
    state, description = load_weights(fold / "weights.safetensors")
    assert sum(start["parameters"].values()) == sum(tensor.numel() for tensor in state.values())
    # One head of 4 features for 3 outputs: two rows are known.
    assert (start["parameters"]["adapted"], start["parameters"]["new"]) == (3 * 5, 0)
    assert description["start"]["identity"] == identity
    assert str(source) not in json.dumps(description)
    assert main(["bundle", f"workspace={workspace}", f"output={tmp_path / 'bundle'}"]) == 0
    manifest = Manifest.load(tmp_path / "bundle" / "bundle.json")
    assert manifest.provenance.begun_from == {"3d_fullres/fold_0": identity}


def test_a_frozen_encoder_stays_as_it_was_and_resumes_to_the_same_bytes(workspace: Path, source: Path) -> None:
    words = [f"init_from={source}", "freeze=encoder"]
    assert train(workspace, *words, "iterations=3", "save_every=0") == 0
    fold, start = begun(workspace)
    trained, before = (
        load_weights(path)[0] for path in (fold / "weights.safetensors", *source.glob("*/*.safetensors"))
    )
    encoder = {name for name in before if name.startswith("encoder.")}
    assert set(start["frozen"]) == encoder
    assert all(torch.equal(trained[name], before[name]) for name in encoder)
    assert not any(torch.equal(trained[name], before[name]) for name in set(before) - encoder)
    moments = [key for key in load_weights(fold / "checkpoint_0000003.safetensors")[0] if key.endswith(".exp_avg")]
    assert len(moments) == len(before) - len(encoder)
    expected = hash_file(fold / "weights.safetensors")
    for leftover in ("weights.safetensors", "checkpoint_0000003.json"):
        (fold / leftover).unlink()
    assert train(workspace, "resume=true") == 0
    assert hash_file(fold / "weights.safetensors") == expected


def test_killed_before_its_first_checkpoint_it_begins_from_the_same_weights_or_not_at_all(
    workspace: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(source, tmp_path / "model")
    assert train(workspace, f"init_from={model}", "iterations=2") == 0
    fold, _ = begun(workspace)
    expected = hash_file(fold / "weights.safetensors")
    for path in (*fold.glob("checkpoint_*"), fold / "weights.safetensors"):
        path.unlink()
    assert train(workspace, "resume=true") == 0
    assert hash_file(fold / "weights.safetensors") == expected

    for path in (*fold.glob("checkpoint_*"), fold / "weights.safetensors"):
        path.unlink()
    shutil.rmtree(model)
    other = write_tiny_workspace(tmp_path / "other")
    assert train(other, "iterations=1") == 0
    assert main(["bundle", f"workspace={other}", f"output={model}"]) == 0
    assert train(workspace, "resume=true") == 2
    assert "its weights have changed" in capsys.readouterr().err
    shutil.rmtree(model)
    assert train(workspace, "resume=true") == 2
    assert "does not exist" in capsys.readouterr().err


def test_an_imported_nnunet_model_is_a_start(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nnunet_model(tmp_path / "model", MODELS["two_folds"])
    import_nnunet([tmp_path / "model"], tmp_path / "bundle")
    convolutions = ["network.encoder_convolutions=[2,2]", "network.decoder_convolutions=[2]"]
    words = [f"init_from={tmp_path / 'bundle'}", "init_fold=1", "iterations=1", *convolutions]
    assert train(workspace, *words) == 0
    _, start = begun(workspace)
    assert start["fold"] == 1
    assert start["parameters"]["copied"] > 0.9 * sum(start["parameters"].values())


def test_a_start_at_another_spacing_or_from_the_held_out_cases_is_remarked_upon(
    workspace: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        train(workspace, f"init_from={source}", "iterations=1", "fold=1", "spacing=[2,1,1]", "patch_size=[8,16,16]")
        == 0
    )
    shown = capsys.readouterr().out
    assert "trained at 1 x 1 x 1 mm, this plan has 2 x 1 x 1 mm" in shown
    assert "held out here" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["network.features=[5,7]"], "Nothing of"),
        (["init_configuration=2d"], "no trained fold of '2d'"),
        (["init_fold=3"], "no trained fold 3"),
    ],
)
def test_what_can_not_be_a_start_is_refused_and_leaves_nothing(
    workspace: Path, source: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workspace, f"init_from={source}", "iterations=1", *words) == 2
    assert said in capsys.readouterr().err
    assert not (workspace / "3d_fullres").exists()


def test_words_about_a_start_need_one_and_a_running_training_keeps_its_own(
    workspace: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(workspace, "freeze=encoder", "iterations=1") == 2
    assert "freeze says how to use the model" in capsys.readouterr().err
    assert train(workspace, "iterations=1") == 0
    assert train(workspace, "resume=true", f"init_from={source}") == 2
    assert "settles init_from already" in capsys.readouterr().err
    assert train(workspace, "restart=true", f"init_from={workspace}", "iterations=1") == 2
    assert "restart=true deletes" in capsys.readouterr().err
    assert (workspace / "3d_fullres" / "fold_0" / "weights.safetensors").exists()


@pytest.mark.slow
def test_a_trained_start_is_ahead_of_a_random_one(workspace: Path, tmp_path: Path) -> None:
    """Other cases than the source's, one structure under another name, and a dozen steps."""
    source = write_tiny_workspace(tmp_path / "source", first=50)
    assert train(source, "fold=full", "iterations=150", "optimizer.learning_rate=0.01") == 0

    def dice_after(*words: str) -> float:
        words = (f"workspace={workspace}", "device=cpu", "iterations=12", "restart=true", *words)
        assert main(["train", *words]) == 0
        scores = json.loads((workspace / "3d_fullres" / "fold_0" / "scores.json").read_text())
        return scores["average"]["dice"]["mean"]

    random = dice_after()
    assert dice_after(f"init_from={source}") > random + 0.2
    assert dice_after(f"init_from={source}", "freeze=encoder") > random + 0.2


@pytest.mark.slow
def test_two_processes_begin_check_and_resume_as_one(workspace: Path, source: Path) -> None:
    def run(*words: str) -> None:
        shared = [f"workspace={workspace}", "device=cpu", "devices=2", "validate_fold=false", *words]
        command = [sys.executable, "-m", "medseg", "train", *shared]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run(f"init_from={source}", "freeze=encoder", "iterations=30", "save_every=0")
    fold, start = begun(workspace)
    assert start["frozen"]
    course = json.loads((fold / "checkpoint_0000030.json").read_text())["course"]
    assert course["checks"]
    expected = hash_file(fold / "weights.safetensors")
    for leftover in ("weights.safetensors", "checkpoint_0000030.json"):
        (fold / leftover).unlink()
    run("resume=true")
    assert hash_file(fold / "weights.safetensors") == expected
    run("resume=true", "iterations=33")
    assert load_weights(fold / "weights.safetensors")[1]["iterations"] == 33
