from pathlib import Path

import pytest

from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cli import main
from medseg.commands.plan_machine import settle_machine
from medseg.evaluation.scores import Scores
from medseg.images.formats import read_image, write_image
from medseg.paths import Workspace
from medseg.planning.plan import Plan
from medseg.planning.presets import load_preset
from medseg.planning.rules import means_of

from tiny import write_tiny_dataset


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_dataset(write_tiny_dataset(tmp_path / "data"), tmp_path / "data" / "dataset.yaml")
    return tmp_path / "data"


def test_any_network_can_be_planned_and_trained_on_a_cpu(dataset, tmp_path):
    words = [f"dataset={dataset}", f"workspace={tmp_path / 'work'}", "preset=cpu", "network=residual_unet"]
    assert main(["plan", *words]) == 0
    plan = Plan.load(Workspace(tmp_path / "work").plan)
    assert {configuration.network.name for configuration in plan.configurations.values()} == {"residual_unet"}
    assert plan.reasons["configurations.2d.network.name"] == "set with network="
    assert main(["train", "fold=0", "iterations=2", "network.base_features=4", "batch_size=2"]) == 0
    assert Workspace(tmp_path / "work").weights("3d_fullres", 0).is_file()


def test_an_unknown_network_is_answered_with_the_nearest_before_anything_is_measured(dataset, tmp_path, capsys):
    assert main(["plan", f"dataset={dataset}", f"workspace={tmp_path / 'work'}", "network=residual_net"]) == 2
    assert "Did you mean 'residual_unet'?" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_memory_and_speed_are_measured_once_and_then_read_so_that_a_plan_keeps_its_bytes(dataset):
    words = ["plan", f"dataset={dataset}", "workspace=work", "device=cpu", "memory=1GB", "budget=10min"]
    assert main(words) == 0
    workspace = Workspace(Path("work"))
    first, machine = workspace.plan.read_bytes(), Plan.load(workspace.plan).machine
    assert machine.memory_bytes == 1_000_000_000
    assert machine.memory_factor is not None
    assert main(words) == 0
    assert workspace.plan.read_bytes() == first


def test_every_value_is_explained_in_words_and_the_patches_in_a_picture(dataset, capsys):
    workspace, said = plan(dataset, "explain=true"), capsys.readouterr().out
    assert "configurations.3d_fullres.patch_size: [20, 24, 16]\n    the median case, padded" in said
    assert "training.seed: 1\n    any number" in said
    assert read_image(workspace.picture).shape[2] > 1000
    assert "work/plan.png" in said


def test_memory_that_no_plan_fits_is_refused_with_what_would_and_nothing_is_written(dataset, capsys):
    assert main(["plan", f"dataset={dataset}", "workspace=work", "preset=nnunet", "device=cpu", "memory=0.5GB"]) == 2
    assert "Plan with preset=default, which fits a plan to the memory, or for memory=" in capsys.readouterr().err
    assert not Path("work").exists()


def plan(dataset, *words):
    assert main(["plan", f"dataset={dataset}", "workspace=work", "preset=nnunet", *words]) == 0
    return Workspace(Path("work"))


def test_a_test_set_is_neither_measured_nor_trained_on(dataset):
    poisoned = dataset / "images" / "3.nii.gz"
    poisoned.write_bytes(b"not an image")
    workspace = plan(dataset, "test=case_03")
    assert [case.name for case in read_dataset(workspace.dataset).test] == ["case_03"]
    assert "case_03" not in workspace.fingerprint.read_text() + workspace.folds.read_text()
    words = ["iterations=1", "batch_size=2", "patch_size=[16,16,16]", "network.base_features=2", "device=cpu"]
    assert main(["train", "fold=full", "validate_fold=false", *words]) == 0
    assert not list(Path("work/prepared").rglob("case_03"))


def test_a_copy_under_another_name_stays_in_its_originals_fold(dataset, capsys):
    copy = read_image(dataset / "images" / "0.nii.gz")
    write_image(dataset / "images" / "1.nii.gz", 2 * copy.array + 30, copy)
    folds = Folds.load(plan(dataset).folds)
    assert "'case_00' and 'case_01' look like the same examination" in capsys.readouterr().out
    for fold in folds.folds:
        assert ("case_00" in fold.validation) == ("case_01" in fold.validation)


def test_folds_are_stratified_on_request_and_the_shares_are_shown(dataset, capsys):
    folds = Folds.load(plan(dataset, "folds=3", "stratify=true").folds)
    assert [len(fold.validation) for fold in folds.folds] == [2, 2, 2]
    assert "equal shares" in folds.rule
    assert "Shares of the folds" in capsys.readouterr().out


def test_training_says_when_a_case_changed_after_the_plan(dataset, capsys):
    plan(dataset)
    words = ["iterations=1", "batch_size=2", "patch_size=[16,16,16]", "network.base_features=2", "device=cpu"]
    image = read_image(dataset / "images" / "2.nii.gz")
    write_image(dataset / "images" / "2.nii.gz", image.array + 5, image)
    assert main(["train", "fold=0", "validate_fold=false", *words]) == 0
    assert "made before case_02 changed" in capsys.readouterr().out.replace("\n", " ")
    assert main(["train", "fold=1", "validate_fold=false", *words]) == 0


def test_the_test_set_is_scored_and_every_look_is_counted(dataset, capsys):
    workspace = plan(dataset, "test=case_03,case_05")
    words = ["iterations=2", "batch_size=2", "patch_size=[16,16,16]", "network.base_features=2", "device=cpu"]
    assert main(["train", "fold=full", "validate_fold=false", *words]) == 0
    assert main(["test", "workspace=work", "device=cpu"]) == 0
    look = workspace.test / "look_1"
    assert {case.case for case in Scores.load(look / "scores.json").cases} == {"case_03", "case_05"}
    assert (look / "predictions" / "case_03.nii.gz").is_file()
    assert (look / "worst_case.png").is_file()
    capsys.readouterr()
    assert main(["test", "workspace=work", "device=cpu"]) == 0
    assert "look number 2" in capsys.readouterr().out.replace("\n", " ")
    assert Scores.load(workspace.test / "look_2" / "scores.json") == Scores.load(look / "scores.json")


def test_without_a_test_set_one_sentence_says_how_to_get_one(dataset, capsys):
    plan(dataset)
    assert main(["test", "workspace=work"]) == 2
    assert "Set one aside with 'medseg plan test=0.2'" in capsys.readouterr().err


def test_a_preset_for_cpus_keeps_within_a_memory_on_a_machine_with_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    machine = settle_machine("auto", 3_000_000_000, load_preset("cpu"), Workspace(tmp_path), False)
    assert (machine.device, machine.memory_bytes) == ("cpu", 3_000_000_000)
    means = means_of(load_preset("cpu"), machine, None)
    assert means.memory_bytes == int(means.memory_share * 3_000_000_000)
    assert means.speed_is_measured
