"""A cascade learns from labels that its previous configuration predicted for cases that it had not seen."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

from medseg.cases.dataset import Dataset
from medseg.cases.folds import Fold, Folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.labels import LabelTable
from medseg.cli import main
from medseg.evaluation.scores import Scores
from medseg.files import hash_file
from medseg.images.formats import read_labels, write_labels
from medseg.inference.bundle import open_model
from medseg.paths import Workspace
from medseg.planning.plan import ConfigurationPlan, TrainingPlan
from medseg.preprocessing.store import open_prepared, with_previous
from medseg.training.augment import augment_batch
from medseg.training.augmentation_cascade import OPERATIONS, add_mistakes, box_around, one_hot

from tiny import TABLE, tiny_plan, write_tiny_dataset

CASCADE = "3d_cascade_fullres"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Workspace:
    """Six cases in two folds; both folds of 3d_lowres and the first of the cascade are trained."""
    folder = tmp_path_factory.mktemp("cascade")
    return train_cascade(folder, write_tiny_dataset(folder / "data"), 30)


def train_cascade(folder: Path, dataset: Dataset, iterations: int) -> Workspace:
    """Both folds of 3d_lowres and the first of the cascade, in ``folder`` / work."""
    workspace = Workspace(folder / "work")
    plan = tiny_plan()
    full = plan.configurations["3d_fullres"]
    low = full.model_copy(update={"spacing": (1.5, 1.5, 1.5), "median_shape": (13, 16, 11)})
    configurations: dict[str, ConfigurationPlan] = {
        "3d_fullres": full,
        "3d_lowres": low,
        CASCADE: full.model_copy(update={"previous": "3d_lowres"}),
    }
    plan.model_copy(update={"configurations": configurations}).save(workspace.plan)
    dataset.labels.save(workspace.labels)
    save_dataset(dataset, workspace.dataset)
    names = [case.name for case in dataset.cases]
    folds = tuple(Fold(validation=tuple(part)) for part in (names[:3], names[3:]))
    Folds(rule="by hand", seed=0, cases={name: name for name in names}, folds=folds).save(workspace.folds)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        length = f"iterations={iterations}"
        assert train(workspace, "fold=all", "configuration=3d_lowres", length) == 0
        assert train(workspace, "fold=0", f"configuration={CASCADE}", length) == 0
    return workspace


@pytest.fixture
def workspace(trained, tmp_path, monkeypatch) -> Workspace:
    """A copy that a test may change."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.folder, tmp_path / "work")
    return Workspace(tmp_path / "work")


def train(workspace: Workspace, *words: str) -> int:
    return main(["train", f"workspace={workspace.folder}", "device=cpu", *words])


def prepared(workspace: Workspace) -> Path:
    return next(path for path in workspace.prepared(CASCADE).iterdir() if not path.name.endswith(".previous"))


def test_a_case_has_the_labels_of_the_network_that_has_not_seen_it(workspace):
    for name, fold in (("case_01", 0), ("case_04", 1)):
        file = workspace.fold("3d_lowres", fold) / "validation" / f"{name}.nii.gz"
        case = open_prepared(prepared(workspace), name, cascade=True)
        # The tiny cases have no border to crop and the cascade's spacing is theirs.
        np.testing.assert_array_equal(case.previous, TABLE.to_indices(read_labels(file).array))
        assert case.network_input(2).shape == (3, *case.labels.shape)


def test_the_networks_input_has_a_channel_for_each_structure(workspace):
    network = open_model(workspace.folder).load(CASCADE).networks[0]
    assert network.channels == 3


def test_a_cascade_begins_with_the_network_before_it_unless_told_otherwise(workspace, capsys):
    """One iteration at almost no learning rate leaves the weights where they began."""
    before = load_file(workspace.weights("3d_lowres", 0))
    words = ["fold=0", f"configuration={CASCADE}", "iterations=1", "optimizer.learning_rate=1e-12", "restart=true"]
    assert train(workspace, *words) == 0
    assert "begins with the weights of 3d_lowres, fold 0" in capsys.readouterr().out
    after = load_file(workspace.weights(CASCADE, 0))
    same = [name for name, tensor in before.items() if name in after and torch.allclose(after[name], tensor, atol=1e-6)]
    assert len(same) == len(before) - 1  # the first convolution takes more channels
    assert train(workspace, *words, "cascade_start=random") == 0
    assert "begins with" not in capsys.readouterr().out
    fresh = load_file(workspace.weights(CASCADE, 0))
    assert not torch.allclose(fresh["decoder.heads.0.weight"], after["decoder.heads.0.weight"], atol=1e-6)


def test_a_cascade_whose_network_differs_from_the_one_before_begins_with_random_weights(workspace, capsys):
    words = ["fold=0", f"configuration={CASCADE}", "iterations=1", "restart=true"]
    assert train(workspace, *words, "network.features=[5,7]") == 0
    assert "The cascade begins with random weights. Nothing of" in capsys.readouterr().out


def test_without_the_previous_folds_one_sentence_says_what_to_train(workspace, capsys):
    shutil.rmtree(workspace.fold("3d_lowres", 1))
    assert train(workspace, "fold=1", f"configuration={CASCADE}", "iterations=2") == 2
    error = capsys.readouterr().err
    assert "3 cases (fold 1) have none yet" in error
    assert "'medseg train configuration=3d_lowres fold=1' first" in error


def test_other_previous_labels_are_noticed_when_resuming(workspace, capsys):
    file = workspace.fold("3d_lowres", 1) / "validation" / "case_04.nii.gz"
    volume = read_labels(file)
    write_labels(file, np.zeros_like(volume.array), volume)
    assert train(workspace, "fold=0", f"configuration={CASCADE}", "resume=true") == 2
    assert "or those predicted by 3d_lowres" in capsys.readouterr().err


def test_a_killed_cascade_ends_in_the_same_bytes(workspace, tmp_path):
    whole = hash_file(workspace.weights(CASCADE, 0))
    folder = workspace.fold(CASCADE, 0)
    shutil.rmtree(folder)
    words = [f"workspace={workspace.folder}", "device=cpu", f"configuration={CASCADE}", "fold=0"]
    script = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from medseg.cli import main\n"
        "def watch():\n"
        "    while not list(Path(sys.argv[1]).glob('*checkpoint*/*')) + list(Path(sys.argv[1]).glob('*checkpoint*')):\n"
        "        time.sleep(0.005)\n"
        "    os.kill(os.getpid(), 9)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "main(sys.argv[2:])\n"
    )
    arguments = [str(folder), "train", *words, "iterations=30", "save_every=0.01s"]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True, cwd=tmp_path)
    assert killed.returncode == -9
    assert not workspace.weights(CASCADE, 0).is_file()
    assert main(["train", *words, "resume=true"]) == 0
    assert hash_file(workspace.weights(CASCADE, 0)) == whole


def test_one_command_predicts_both_and_a_bundle_elsewhere_gives_the_same(workspace, tmp_path):
    images = Path(read_dataset(workspace.dataset).cases[0].images[0]).parent
    words = [f"input={images}", "picture=false", "device=cpu"]
    model = [f"model={workspace.folder}", f"configuration={CASCADE}"]
    assert main(["predict", *model, *words, f"output={tmp_path / 'out'}"]) == 0
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    shutil.rmtree(workspace.folder)
    model = [f"model={tmp_path / 'bundle'}", f"configuration={CASCADE}"]
    assert main(["predict", *model, *words, f"output={tmp_path / 'again'}"]) == 0
    files = sorted((tmp_path / "out").glob("*.nii.gz"))
    assert len(files) == 6
    for file in files:
        np.testing.assert_array_equal(read_labels(file).array, read_labels(tmp_path / "again" / file.name).array)


def test_a_held_out_case_is_predicted_as_in_its_folds_validation(workspace, tmp_path):
    case = read_dataset(workspace.dataset).cases[1]
    words = [f"model={workspace.folder}", f"configuration={CASCADE}", "folds=0", "picture=false", "device=cpu"]
    words += ["quality=best"]  # as validation predicts
    assert main(["predict", *words, f"input={case.images[0]}", f"output={tmp_path / 'out'}"]) == 0
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    expected = read_labels(workspace.fold(CASCADE, 0) / "validation" / f"{case.name}.nii.gz").array
    np.testing.assert_array_equal(read_labels(file).array, expected)


def test_a_cascade_of_every_case_follows_a_network_of_every_case_if_there_is_one(workspace, tmp_path):
    for name in ("3d_lowres", CASCADE):
        assert train(workspace, "fold=full", f"configuration={name}", "iterations=2", "validate_fold=false") == 0
        shutil.rmtree(workspace.fold(CASCADE, 0), ignore_errors=True)
        if name == "3d_lowres":
            shutil.move(workspace.fold(name, "full"), tmp_path / "later")
    before = open_model(workspace.folder).load(CASCADE).previous
    assert before is not None
    assert before.folds == (0, 1)
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    shutil.move(tmp_path / "later", workspace.fold("3d_lowres", "full"))
    model = open_model(workspace.folder)
    for networks in (model.load(CASCADE), model.load(CASCADE, ["full"])):
        assert networks.previous is not None
        assert networks.previous.folds == ("full",)


def test_a_cascade_without_the_networks_before_it_is_neither_bundled_nor_predicted(workspace, tmp_path, capsys):
    shutil.rmtree(workspace.folder / "3d_lowres")
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 2
    assert f"holds the cascade '{CASCADE}', but not '3d_lowres'" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_select_compares_the_cascade_on_the_cases_it_has_held_out(workspace):
    words = [f"workspace={workspace.folder}", f'configurations=["3d_lowres","{CASCADE}"]', "device=cpu"]
    assert main(["select", *words]) == 0
    expected = read_labels(workspace.fold(CASCADE, 0) / "validation" / "case_01.nii.gz").array
    found = read_labels(workspace.folder / "selection" / CASCADE / "case_01.nii.gz").array
    np.testing.assert_array_equal(found, expected)


def test_previous_labels_move_with_the_image():
    plan = tiny_plan().configurations["3d_fullres"]
    random = np.random.default_rng(0)
    truth = torch.from_numpy(random.integers(0, 3, (8, 24, 24, 24)).astype(np.uint8))
    images = truth[:, None].float()
    training = TrainingPlan().model_copy(deep=True)
    off = dict.fromkeys(("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "mistakes"), False)
    training = training.model_copy(update={"augmentation": training.augmentation.model_copy(update=off)})
    inputs, labels = augment_batch(images, torch.stack([truth, truth], 1), plan, training, 3, structures_before=2)
    assert inputs.shape == (8, 3, 16, 16, 16)
    torch.testing.assert_close(inputs[:, 1:], one_hot(labels, 2))


@pytest.mark.parametrize("seed", range(4))
def test_mistakes_are_morphology_or_missing_parts_and_follow_the_random_numbers(seed):
    truth = np.zeros((40, 20, 20, 20), np.uint8)
    truth[:, 4:14, 4:14, 4:14] = 1
    truth[:, 16:18, 16:18, 2:4] = 2
    previous = torch.from_numpy(truth)
    changed = add_mistakes(previous, 2, np.random.default_rng(seed)).numpy()
    np.testing.assert_array_equal(changed, add_mistakes(previous, 2, np.random.default_rng(seed)).numpy())
    assert torch.equal(previous, torch.from_numpy(truth))
    touched = sum(not np.array_equal(a, b) for a, b in zip(truth, changed, strict=True))
    assert 5 < touched < 35
    lost = [labels for labels in changed if not (labels == 2).any()]
    assert lost
    ball = np.add.outer(np.add.outer(*[np.arange(-8, 9) ** 2] * 2), np.arange(-8, 9) ** 2) <= 64
    widest = ndimage.binary_dilation(truth[0] > 0, ball)
    assert not (changed > 0)[:, ~widest].any()


@pytest.mark.slow
def test_a_cascade_learns_regions_and_its_previous_labels_are_those_that_they_write(tmp_path):
    regions = [
        {"name": "both", "labels": ["ball", "box"], "written": 1},
        {"name": "box", "labels": ["box"], "written": 2},
    ]
    table = LabelTable.validated(TABLE.model_dump() | {"regions": regions}, "tests")
    workspace = train_cascade(tmp_path, replace(write_tiny_dataset(tmp_path / "data"), labels=table), 4)
    network = open_model(workspace.folder).load(CASCADE).networks[0]
    assert network.channels == 1 + 2
    scores = Scores.load(workspace.fold(CASCADE, 0) / "scores.json")
    assert [structure.name for structure in scores.structures] == ["both", "box"]
    file = workspace.fold("3d_lowres", 0) / "validation" / "case_01.nii.gz"
    case = open_prepared(prepared(workspace), "case_01", cascade=True)
    np.testing.assert_array_equal(case.previous, read_labels(file).array)


@pytest.mark.slow
def test_what_nobody_annotated_is_no_previous_label_of_a_cascade(tmp_path):
    dataset = write_tiny_dataset(tmp_path / "data")
    for case in dataset.cases:
        volume = read_labels(case.labels)
        sparse = volume.array.copy()
        sparse[10:] = 255
        write_labels(case.labels, sparse, volume)
    table = TABLE.model_copy(update={"ignore": 255})
    workspace = train_cascade(tmp_path, replace(dataset, labels=table), 4)
    case = open_prepared(prepared(workspace), "case_01", cascade=True)
    assert (case.labels == table.ignore_index).any()
    assert case.previous.max() <= 2
    assert open_model(workspace.folder).load(CASCADE).networks[0].channels == 1 + 2


@pytest.mark.parametrize("seed", range(3))
def test_mistakes_around_a_structure_are_those_of_the_whole_patch(seed):
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=(24, 30, 26)), 2)
    mask = smooth > np.quantile(smooth, 0.9)  # parts that touch the border, and gaps
    box = box_around(mask, 9)
    assert box is not None
    for operation in OPERATIONS:
        for radius in (1, 3, 8):
            whole = np.zeros_like(mask)
            whole[box] = operation(mask[box], radius)
            np.testing.assert_array_equal(whole, operation(mask, radius))


def test_a_channel_for_each_structure_follows_the_image():
    image, previous = np.ones((1, 2, 2, 2), np.float32), np.array([[[0, 1], [2, 1]], [[0, 0], [0, 2]]], np.uint8)
    whole = with_previous(image, previous, 2)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole[1], previous == 1)
    np.testing.assert_array_equal(whole[2], previous == 2)
