"""What ``medseg train`` says when it can't start, before anything is done."""

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.cli import main
from medseg.files import hash_file
from medseg.images.formats import read_image, write_image
from medseg.networks.weights import load_weights
from medseg.training.recorder import read_log

from tiny import write_tiny_workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_tiny_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fold=-1"], "should be 0 or more"),
        (["configuration=3d_lowres"], "has no configuration '3d_lowres'; it has 3d_fullres"),
        (["resume=true", "restart=true"], "choose one"),
        (["patch_size=[15,16,16]"], "not a multiple of 2"),
        (["batch_size=none"], "batch_size"),
        (["learning_rate=1"], "Did you mean 'optimizer.learning_rate'?"),
        (["loss=best"], "no loss 'best'"),
        (["loss=[dice_ce,0.5*focl]"], "Did you mean 'focal'?"),
        (["class_weights=median"], "fingerprint.json is missing"),
        (["device=tpu"], "device"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_leaves_nothing(
    workspace: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"workspace={workspace}", "iterations=2", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(workspace.glob("3d_fullres/*/weights.safetensors"))


def test_without_a_workspace_the_last_used_one_serves_and_is_named(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "iterations=1"]) == 2
    assert "No workspace has been used" in capsys.readouterr().err
    assert main(["train", f"workspace={workspace}", "iterations=1", "validate_fold=false", "device=cpu"]) == 0
    capsys.readouterr()
    assert main(["train", "iterations=1", "fold=1", "validate_fold=false", "device=cpu"]) == 0
    assert f"Workspace: {workspace}" in capsys.readouterr().out


def test_a_folder_without_a_plan_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"workspace={tmp_path}"]) == 2
    assert "medseg plan" in capsys.readouterr().err


def test_a_plan_edited_by_hand_is_validated(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = workspace / "plan.yaml"
    plan.write_text(plan.read_text().replace("batch_size: 2", "batch_size: two"))
    assert main(["train", f"workspace={workspace}"]) == 2
    shown = capsys.readouterr().err
    assert "plan.yaml" in shown
    assert "batch_size" in shown


def test_an_interrupted_training_asks_for_resume_or_restart(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", f"workspace={workspace}", "device=cpu", "validate_fold=false", "iterations=2"]
    assert main(words) == 0
    (workspace / "3d_fullres" / "fold_0" / "weights.safetensors").unlink()
    assert main(words) == 2
    assert "unfinished" in capsys.readouterr().err
    assert main([*words, "resume=true", "seed=2"]) == 2
    assert "settles seed already" in capsys.readouterr().err
    assert main([*words, "resume=true"]) == 0
    assert (workspace / "3d_fullres" / "fold_0" / "weights.safetensors").exists()
    assert main([*words, "restart=true"]) == 0


def _fold(workspace: Path, name: str) -> Any:
    return json.loads((workspace / "3d_fullres" / "fold_0" / name).read_text())


def test_a_finished_training_goes_on_to_another_length_and_the_recipe_tells_of_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = _trained(workspace)
    weights = workspace / "3d_fullres" / "fold_0" / "weights.safetensors"
    first = hash_file(weights)
    assert main([*resume, "iterations=2"]) == 0
    assert hash_file(weights) == first
    capsys.readouterr()
    assert main([*resume[:-2], "resume=true", "iterations=5"]) == 0
    assert "goes on from iteration 2 to 5 instead of 2" in capsys.readouterr().err
    assert hash_file(weights) != first
    for again in ([], ["iterations=5"]):
        assert main([*resume, *again]) == 0
    recipe = _fold(workspace, "recipe.json")
    assert [(part["stretch"]["start"], part["stretch"]["end"]) for part in recipe["parts"]] == [(0, 2), (2, 5)]
    description = load_weights(weights)[1]
    assert description["iterations"] == 5
    assert [part["end"] for part in description["parts"]] == [2, 5]
    assert [row["iteration"] for row in read_log(weights.with_name("log.csv"))] == [1, 2, 3, 4, 5]


def test_a_longer_time_counts_what_is_spent_already(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = _trained(workspace)
    assert main([*resume, "budget=0.001s"]) == 2
    assert "has trained for" in capsys.readouterr().err
    assert main([*resume, "iterations=1"]) == 2
    assert "has done 2 iterations already" in capsys.readouterr().err
    assert len(_fold(workspace, "recipe.json")["parts"]) == 1
    for _ in range(2):
        assert main([*resume, "budget=4s"]) == 0
    first, second = _fold(workspace, "recipe.json")["parts"]
    assert second["budget"] == 4
    assert second["stretch"]["start"] == first["stretch"]["end"] == 2
    assert second["stretch"]["end"] > 3


def test_scores_of_the_shorter_training_are_not_left_beside_the_longer_one(workspace: Path) -> None:
    resume = _trained(workspace)
    assert main([*resume[:-2], "resume=true"]) == 0
    fold = workspace / "3d_fullres" / "fold_0"
    assert (fold / "scores.json").exists()
    assert main([*resume, "iterations=3"]) == 0
    assert not (fold / "scores.json").exists()
    assert not (fold / "validation").exists()


def test_early_stop_can_be_asked_for_later_and_what_watches_is_said(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = _trained(workspace, "early_stop=true")
    assert "too few iterations" in capsys.readouterr().out
    assert _fold(workspace, "recipe.json")["parts"][0]["early_stop"] is True
    assert main([*resume, "iterations=62", "early_stop=false"]) == 0
    shown = capsys.readouterr().out
    assert "Every 7 iterations one held-out case is predicted whole." in shown
    part = _fold(workspace, "recipe.json")["parts"][1]
    assert part["early_stop"] is False
    assert part["watch"] == {"cases": _fold(workspace, "recipe.json")["validation_cases"], "every": 7}
    assert main(["train", f"workspace={workspace}", "fold=full", "iterations=2", "device=cpu"]) == 0
    assert "nothing is held out" in capsys.readouterr().out


def test_case_names_never_lead_out_of_the_workspace(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = workspace / "dataset.yaml"
    listing.write_text(listing.read_text().replace("case_00", "../../case_00"))
    assert main(["train", f"workspace={workspace}", "iterations=1"]) == 2
    assert "case_00" in capsys.readouterr().err


def _trained(workspace: Path, *words: str) -> list[str]:
    shared = ["train", f"workspace={workspace}", "device=cpu", "validate_fold=false"]
    assert main([*shared, "iterations=2", *words]) == 0
    return [*shared, "resume=true"]


def _arrays(workspace: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (workspace / "prepared").rglob("image.npy")}


def test_resuming_after_the_plan_prepares_in_another_way_is_refused(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = _trained(workspace)
    plan = workspace / "plan.yaml"
    plan.write_text(plan.read_text().replace("spacing: [1.0, 1.0, 1.0]", "spacing: [2.0, 2.0, 2.0]"))
    assert main(resume) == 2
    assert "prepares images in another way" in capsys.readouterr().err


def test_resuming_on_changed_images_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = _trained(workspace)
    path = workspace.parent / "data" / "images" / "0.nii.gz"
    volume = read_image(path)
    write_image(path, volume.array + 1, volume)
    assert main(resume) == 2
    assert "have changed since" in capsys.readouterr().err


def test_resuming_keeps_the_cases_that_the_training_began_with(workspace: Path) -> None:
    resume = _trained(workspace)
    held_out = json.loads((workspace / "3d_fullres" / "fold_0" / "recipe.json").read_text())["validation_cases"]
    folds = workspace / "folds.yaml"
    text = folds.read_text()
    others = sorted({f"case_{i:02d}" for i in range(5)} - set(held_out))
    for old in held_out:
        text = text.replace(f"- {old}", f"- {others[0]}", 1)
    folds.write_text(text)
    assert main([*resume[:-2], "resume=true"]) == 0
    scores = json.loads((workspace / "3d_fullres" / "fold_0" / "scores.json").read_text())
    assert [case["case"] for case in scores["cases"]] == held_out


def test_another_spacing_for_one_fold_leaves_the_arrays_of_the_others(workspace: Path) -> None:
    _trained(workspace)
    before = {path: path.stat().st_mtime_ns for path in (workspace / "prepared").rglob("image.npy")}
    _trained(workspace, "fold=1", "spacing=[1.5,1.5,1.5]", "patch_size=[16,16,8]")
    assert (
        before.items() < {path: path.stat().st_mtime_ns for path in (workspace / "prepared").rglob("image.npy")}.items()
    )


def test_where_training_may_not_mirror_prediction_does_not(workspace: Path) -> None:
    _trained(workspace, "augmentation.mirror=false")
    _, description = load_weights(workspace / "3d_fullres" / "fold_0" / "weights.safetensors")
    assert description["mirror_axes"] == []


def test_a_budget_of_nothing_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"workspace={workspace}", "budget=0s", "device=cpu"]) == 2
    assert "budget above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_log_goes_to_tensorboard_as_well_when_asked(workspace: Path) -> None:
    _trained(workspace, "tensorboard=true")
    (events,) = (workspace / "3d_fullres" / "fold_0" / "tensorboard").glob("events.*")
    assert events.stat().st_size > 100
