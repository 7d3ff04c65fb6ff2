"""From trained folds to a selection, a bundle that carries it, and a prediction that follows it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.cases.case import read_case_image
from medseg.cases.folds import Fold, Folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cli import main
from medseg.files import hash_file
from medseg.images.formats import read_labels
from medseg.inference.bundle import open_model
from medseg.inference.decision import decide, decision_of
from medseg.inference.options import Options
from medseg.inference.predict import predict_together, probability_rows
from medseg.inference.selection import Selection
from medseg.paths import Workspace

from tiny import TABLE, tiny_plan, write_tiny_dataset


def make_workspace(folder: Path, configurations: tuple[str, ...]) -> Workspace:
    """Six cases in two folds, every configuration trained for a few iterations on both."""
    workspace = Workspace(folder / "work")
    dataset = write_tiny_dataset(folder / "data")
    plan, flat = tiny_plan(), tiny_plan(2)
    plan = plan.model_copy(update={"configurations": {**plan.configurations, **flat.configurations}})
    plan.save(workspace.plan)
    TABLE.save(workspace.labels)
    save_dataset(dataset, workspace.dataset)
    names = [case.name for case in dataset.cases]
    folds = tuple(Fold(validation=tuple(part)) for part in (names[:3], names[3:]))
    Folds(rule="by hand", seed=0, cases={name: name for name in names}, folds=folds).save(workspace.folds)
    for name in configurations:
        words = [f"workspace={workspace.folder}", f"configuration={name}", "iterations=12", "device=cpu"]
        assert main(["train", "fold=all", *words]) == 0
    return workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("two")
        patch.chdir(folder)
        return make_workspace(folder, ("3d_fullres", "2d"))


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch):
    """A copy that a test may change."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.folder, tmp_path / "work")
    return Workspace(tmp_path / "work")


def select(workspace: Workspace, *words: str) -> Selection:
    assert main(["select", f"workspace={workspace.folder}", *words]) == 0
    return Selection.load(workspace.selection)


def test_a_pair_is_the_mean_of_both_probability_volumes(workspace):
    model, case = open_model(workspace.folder), read_dataset(workspace.dataset).cases[0]
    members = [model.load(name, [0]) for name in ("3d_fullres", "2d")]
    image, options = read_case_image(case, 1), Options(torch.device("cpu"))
    single, pair = predict_together(image, members, [[0], [0, 1]], options)
    whole = []
    for member in members:
        grid, rows = probability_rows(image, member, options)
        whole.append(torch.stack([row.clone() for row in rows], dim=1))
    box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    expected = decide((whole[0] + whole[1]) / 2, decision_of(model.labels)).numpy()
    np.testing.assert_array_equal(grid.orient(pair)[box], expected)
    np.testing.assert_array_equal(grid.orient(single)[box], decide(whole[0], decision_of(model.labels)).numpy())
    assert not np.array_equal(single, pair)


def test_every_configuration_and_pair_is_compared_on_the_cases_held_out(workspace, capsys):
    selection = select(workspace)
    assert {one.name for one in selection.candidates} == {"3d_fullres", "2d", "3d_fullres + 2d"}
    assert selection.cases == 6
    assert all(0 <= one.dice <= 1 for one in selection.candidates)
    assert selection.folds == dict.fromkeys(selection.chosen, (0, 1))
    assert (workspace.folder / "selection.png").stat().st_size > 1000
    labels = sorted((workspace.folder / "selection").rglob("*.nii.gz"))
    assert len(labels) == 18
    assert not list((workspace.folder / "selection").rglob("*.np*"))
    assert "out-of-fold predictions" in capsys.readouterr().out


def test_labels_in_the_comparison_are_those_of_the_trainings_own_validation(workspace):
    select(workspace)
    for name in ("case_00", "case_05"):
        fold = 0 if name == "case_00" else 1
        theirs = read_labels(workspace.fold("3d_fullres", fold) / "validation" / f"{name}.nii.gz").array
        np.testing.assert_array_equal(
            read_labels(workspace.folder / "selection" / "3d_fullres" / f"{name}.nii.gz").array, theirs
        )


def test_a_second_run_predicts_nothing_anew_and_another_training_everything(workspace):
    select(workspace)
    files = sorted((workspace.folder / "selection").rglob("*.nii.gz"))
    files[0].unlink()
    before = {file: file.stat().st_mtime_ns for file in files[1:] if file.name != files[0].name}
    select(workspace)
    assert files[0].is_file()
    assert all(file.stat().st_mtime_ns == changed for file, changed in before.items())
    words = [f"workspace={workspace.folder}", "configuration=2d", "iterations=4", "restart=true", "device=cpu"]
    assert main(["train", "fold=0", *words]) == 0
    select(workspace)
    assert all(file.stat().st_mtime_ns != changed for file, changed in before.items())


def test_missing_folds_leave_the_cases_that_both_have_held_out(workspace, capsys):
    shutil.rmtree(workspace.fold("2d", 1))
    assert select(workspace).cases == 3
    assert "the 3 of 6 cases" in capsys.readouterr().out
    assert select(workspace, 'configurations=["3d_fullres"]').cases == 6


def test_prediction_and_bundle_follow_the_selection(workspace, tmp_path, capsys):
    selection = select(workspace).model_copy(update={"chosen": ("3d_fullres", "2d")})
    identities = {name: open_model(workspace.folder).load(name, [0, 1]).identity for name in selection.chosen}
    folds = dict.fromkeys(selection.chosen, (0, 1))
    selection.model_copy(update={"identities": identities, "folds": folds}).save(workspace.selection)
    words = [f"input={tmp_path.parent}", f"output={tmp_path / 'out'}", f"model={workspace.folder}"]
    images = Path(read_dataset(workspace.dataset).cases[0].images[0]).parent
    words[0] = f"input={images}"
    assert main(["predict", *words, "picture=false"]) == 0
    assert "Averaged with 2d" in capsys.readouterr().out
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "Out-of-fold scores" in card
    assert "case_0" not in card
    assert str(tmp_path) not in card
    script = "import sys; from medseg.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [f"model={tmp_path / 'bundle'}", f"input={images}", f"output={tmp_path / 'again'}", "picture=false"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-c", script, "predict", *words], check=True, cwd=elsewhere, capture_output=True)
    found = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(found) == 6
    for file in found:
        np.testing.assert_array_equal(read_labels(file).array, read_labels(tmp_path / "again" / file.name).array)
    assert main(["predict", *words[:2], f"output={tmp_path / 'x'}", "combine=logits", "picture=false"]) == 2
    assert "Only the probabilities" in capsys.readouterr().out


def test_a_bundle_takes_what_was_chosen_and_everything_on_request(workspace, tmp_path):
    selection = select(workspace)
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'chosen'}"]) == 0
    assert set(open_model(tmp_path / "chosen").weights) == set(selection.chosen)
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'all'}", "everything=true"]) == 0
    assert set(open_model(tmp_path / "all").weights) == {"2d", "3d_fullres"}


def test_one_flipped_byte_anywhere_in_a_bundle_is_refused(workspace, tmp_path, capsys):
    select(workspace)
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    files = [file for file in sorted((tmp_path / "bundle").rglob("*")) if file.is_file()]
    assert len(files) >= 6
    for file in files:
        content = file.read_bytes()
        for place in (len(content) // 3, len(content) - 2):
            flipped = bytearray(content)
            flipped[place] ^= 4
            file.write_bytes(flipped)
            capsys.readouterr()
            words = [f"model={tmp_path / 'bundle'}", f"input={tmp_path}", f"output={tmp_path / 'o'}"]
            assert main(["predict", *words]) == 2
            assert file.name in capsys.readouterr().err
        file.write_bytes(content)
    open_model(tmp_path / "bundle")


def test_a_selection_made_before_another_training_is_noticed(workspace, tmp_path, capsys):
    chosen = select(workspace).chosen[0]
    words = [f"workspace={workspace.folder}", f"configuration={chosen}", "iterations=4", "restart=true", "device=cpu"]
    assert main(["train", "fold=0", *words]) == 0
    capsys.readouterr()
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 2
    assert "trained anew since 'medseg select' chose it" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_one_configuration_needs_no_prediction_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = make_workspace(tmp_path, ("3d_fullres",))
    before = {path: hash_file(path) for path in workspace.folder.rglob("validation/*.nii.gz")}
    selection = select(workspace)
    assert selection.chosen == ("3d_fullres",)
    assert selection.cases == len(before) == 6


def test_without_a_trained_fold_one_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace = make_workspace(tmp_path, ())
    assert main(["select", f"workspace={workspace.folder}"]) == 2
    assert "Run 'medseg train fold=all'" in capsys.readouterr().err
