"""Members that come of one training: snapshots of it, and samples of its dropout."""

import pytest

from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.files import hash_file
from medseg.images.formats import read_image
from medseg.inference.bundle import open_model
from medseg.inference.model import described_weights
from medseg.paths import Workspace

from tiny import write_tiny_workspace, write_untrained_model

TRAIN = ("fold=0", "iterations=6", "device=cpu", "validate_fold=false")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace(write_tiny_workspace(tmp_path_factory.mktemp("members")))
    words = [f"workspace={workspace.folder}", "snapshots=3", "network.dropout=0.3"]
    assert main(["train", *TRAIN, *words]) == 0
    return workspace


def predict(workspace, model, output, *words):
    image = read_dataset(workspace.dataset).cases[0].images[0]
    return main(["predict", f"model={model}", f"input={image}", f"output={output}", "picture=false", *words])


def maps_of(output):
    return {path.name: hash_file(path) for path in (output / "uncertainty" / "0").iterdir()}


def test_snapshots_travel_with_the_model_and_disagree(workspace, tmp_path):
    assert main(["bundle", f"workspace={workspace.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    model = open_model(tmp_path / "bundle")
    assert [path.name for path in model.snapshots["3d_fullres"][0]] == [
        "fold_0.snapshot_1.safetensors",
        "fold_0.snapshot_2.safetensors",
    ]
    for name, where in (("a", workspace.folder), ("b", tmp_path / "bundle")):
        assert predict(workspace, where, tmp_path / name, "uncertainty=snapshots", "quality=fast") == 0
    assert maps_of(tmp_path / "a") == maps_of(tmp_path / "b")
    assert read_image(tmp_path / "a" / "uncertainty" / "0" / "epistemic.nii.gz").array.max() > 1e-4


def test_samples_of_dropout_disagree_alike_every_time(workspace, tmp_path):
    for name, samples in (("a", 3), ("b", 3), ("c", 4)):
        words = ("uncertainty=dropout", f"samples={samples}")
        assert predict(workspace, workspace.folder, tmp_path / name, *words) == 0
    assert maps_of(tmp_path / "a") == maps_of(tmp_path / "b") != maps_of(tmp_path / "c")
    assert read_image(tmp_path / "a" / "uncertainty" / "0" / "epistemic.nii.gz").array.max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "sentence"), [("dropout", "network.dropout=0.2"), ("snapshots", "Train with snapshots=5")]
)
def test_a_model_without_such_members_says_how_to_train_one(workspace, tmp_path, capsys, kind, sentence):
    model = write_untrained_model(tmp_path / "plain")
    assert predict(workspace, model, tmp_path / "out", f"uncertainty={kind}") == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("fold=1", "snapshots=3", "early_stop=true", "iterations=50"), "can't end early"),
        (("fold=1", "snapshots=4", "iterations=6"), "need more than 6 iterations"),
        (("resume=true", "iterations=12"), "were laid out over 6"),
    ],
)
def test_the_length_of_a_training_with_snapshots_is_fixed(workspace, capsys, words, sentence):
    assert main(["train", f"workspace={workspace.folder}", "device=cpu", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_network_that_gives_evidence_tells_what_it_does_not_know_in_one_pass(tmp_path):
    workspace = Workspace(write_tiny_workspace(tmp_path))
    words = (f"workspace={workspace.folder}", "network.head=evidential", "loss=[dice,evidential]", "mirror_axes=[]")
    assert main(["train", *TRAIN, *words]) == 0
    assert predict(workspace, workspace.folder, tmp_path / "out", "uncertainty=evidential", "mirror=false") == 0
    epistemic = read_image(tmp_path / "out" / "uncertainty" / "0" / "epistemic.nii.gz").array
    assert epistemic.max() > 0.1  # six iterations teach little


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    workspace = Workspace(write_tiny_workspace(tmp_path_factory.mktemp("learned")))
    words = (f"workspace={workspace.folder}", "network.head=learned", "loss=[dice,learned]", "mirror_axes=[]")
    assert main(["train", *TRAIN, *words]) == 0
    return workspace


def test_a_network_says_what_may_be_otherwise_and_its_labels_stay_the_same(learned, tmp_path):
    place = learned.folder
    assert main(["bundle", f"workspace={place}", f"output={tmp_path / 'bundle'}"]) == 0
    assert predict(learned, tmp_path / "bundle", tmp_path / "out", "uncertainty=learned", "mirror=false", "step=1") == 0
    assert predict(learned, place, tmp_path / "plain", "mirror=false", "step=1") == 0
    assert hash_file(tmp_path / "out" / "0.nii.gz") == hash_file(tmp_path / "plain" / "0.nii.gz")
    maps = tmp_path / "out" / "uncertainty" / "0"
    assert read_image(maps / "variance.nii.gz").array.max() > 0.01
    ratio = read_image(maps / "epistemic.nii.gz").array.sum() / read_image(maps / "entropy.nii.gz").array.sum()
    assert ratio < 0.05  # doubt about labels is no disagreement; only overlapping tiles disagree


def test_such_a_training_goes_on_and_may_begin_with_plain_weights(workspace, tmp_path):
    other = Workspace(write_tiny_workspace(tmp_path))
    words = (f"workspace={other.folder}", "fold=0", "device=cpu", "validate_fold=false")
    start = f"init_from={workspace.folder}"
    assert main(["train", *words, "iterations=2", "network.head=learned", "loss=[dice,learned]", start]) == 0
    assert main(["train", *words, "iterations=4", "resume=true"]) == 0
    assert open_model(other.folder).load().configuration.network.head == "learned"


def test_an_exported_graph_gives_the_expected_probabilities_alone(learned, tmp_path, capsys):
    assert main(["export", f"model={learned.folder}", f"output={tmp_path / 'onnx'}"]) == 0
    assert predict(learned, tmp_path / "onnx", tmp_path / "out", "mirror=false", "step=1") == 0
    assert predict(learned, tmp_path / "onnx", tmp_path / "more", "uncertainty=learned") == 2
    assert "exported graph" in capsys.readouterr().err


def test_images_are_restored_by_plain_logits_whatever_the_head(learned, tmp_path):
    workspace = Workspace(write_tiny_workspace(tmp_path))
    words = ("network.head=learned", "iterations=2", "device=cpu")
    assert main(["pretrain", f"workspace={workspace.folder}", *words]) == 0
    path = Workspace(workspace.folder / "pretrained").weights("3d_fullres", 0)
    assert described_weights(path)[1].configuration.network.head == "plain"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("loss=[dice,evidential]",), "Add network.head=evidential"),
        (("uncertainty=evidential",), "give no evidence"),
        (("loss=[dice,learned]",), "Add network.head=learned"),
        (("network.head=learned",), "Add loss="),
        (("uncertainty=learned",), "do not say what may be otherwise"),
    ],
)
def test_a_head_and_what_needs_it_go_together(workspace, tmp_path, capsys, words, sentence):
    if words[0].startswith("uncertainty="):
        assert predict(workspace, workspace.folder, tmp_path / "out", *words) == 2
    else:
        assert main(["train", "fold=1", "iterations=6", f"workspace={workspace.folder}", "device=cpu", *words]) == 2
    assert sentence in capsys.readouterr().err
