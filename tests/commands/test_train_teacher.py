"""``teacher=``: a training learns from a model too, the same on every resume, and refuses what can't teach it."""

import shutil

import pytest

from medseg.cli import main
from medseg.networks.weights import load_weights
from medseg.planning.plan import Plan
from medseg.training.recipe import Recipe

from tiny import table_named, write_tiny_workspace


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with a trained teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    workspace = write_tiny_workspace(folder)
    assert main(["train", f"workspace={workspace}", "iterations=3", "validate_fold=false", "device=cpu"]) == 0
    return folder


def train(folder, *words):
    return main(["train", f"workspace={folder / 'W'}", "device=cpu", "validate_fold=false", *words])


def student_of(taught, tmp_path):
    """The same workspace without what was trained in it."""
    shutil.copytree(taught, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/W/3d_fullres")
    return tmp_path / "copy"


def test_a_light_student_learns_from_a_model_and_says_so(taught, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = student_of(taught, tmp_path)
    words = ("iterations=4", "network.name=light", f"teacher={taught / 'W'}")
    assert train(folder, *words, "distillation.temperature=3") == 0
    assert "Teacher:" in capsys.readouterr().out
    fold = folder / "W/3d_fullres/fold_0"
    recipe = Recipe.load(fold / "recipe.json")
    assert recipe.teacher.folds == (0,)
    assert recipe.training.distillation.temperature == 3
    with_teacher = load_weights(fold / "weights.safetensors")[0]

    (fold / "weights.safetensors").unlink()
    assert train(folder, "resume=true") == 0
    again = load_weights(fold / "weights.safetensors")[0]
    assert all(again[name].equal(tensor) for name, tensor in with_teacher.items())

    assert train(folder, "iterations=4", "network.name=light", "restart=true") == 0
    alone = load_weights(fold / "weights.safetensors")[0]
    assert any(not alone[name].equal(tensor) for name, tensor in with_teacher.items())


def test_maps_are_matched_too_and_the_adapters_are_resumed_but_not_kept(taught, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = student_of(taught, tmp_path)
    words = (
        "iterations=4",
        "network.name=light",
        f"teacher={taught / 'W'}",
        "distillation.features=0.5",
        "save_every=0",
    )
    assert train(folder, *words) == 0
    fold = folder / "W/3d_fullres/fold_0"
    state = load_weights(fold / "weights.safetensors")[0]
    assert all(name.startswith(("encoder.", "decoder.")) for name in state)
    for leftover in ("weights.safetensors", "checkpoint_0000004.json"):
        (fold / leftover).unlink()
    assert any(".adapters." in name for name in load_weights(fold / "checkpoint_0000003.safetensors")[0])
    assert train(folder, "resume=true") == 0
    again = load_weights(fold / "weights.safetensors")[0]
    assert all(again[name].equal(tensor) for name, tensor in state.items())

    assert train(folder, *words[:3], "restart=true") == 0
    alone = load_weights(fold / "weights.safetensors")[0]
    assert any(not alone[name].equal(tensor) for name, tensor in state.items())


def test_a_teacher_of_other_structures_or_spacing_is_refused(taught, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = student_of(taught, tmp_path)
    table_named("liver", "spleen").save(folder / "W/labels.yaml")
    assert train(folder, "iterations=2", f"teacher={taught / 'W'}") == 2
    assert "can't teach this training: it finds ball, box, not liver, spleen" in capsys.readouterr().err
    shutil.copy(taught / "W/labels.yaml", folder / "W/labels.yaml")
    plan = Plan.load(folder / "W/plan.yaml")
    coarser = plan.configurations["3d_fullres"].model_copy(update={"spacing": (2.0, 1.0, 1.0)})
    plan.model_copy(update={"configurations": {"3d_fullres": coarser}}).save(folder / "W/plan.yaml")
    assert train(folder, "iterations=2", f"teacher={taught / 'W'}") == 2
    assert "works at 1 x 1 x 1 mm, not 2 x 1 x 1" in capsys.readouterr().err


def test_teacher_fold_without_a_teacher_is_refused(taught, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train(student_of(taught, tmp_path), "iterations=2", "teacher_fold=0") == 2
    assert "no teacher is named" in capsys.readouterr().err
