"""``medseg prune`` says what every level of a U-Net++ is worth and writes a smaller model that predicts as it said."""

import json

import pytest

from medseg.cli import main
from medseg.inference.bundle import open_model
from medseg.planning.memory import parameter_count

from tiny import write_tiny_workspace

DEEPER = ["network.name=unetpp", "network.features=[4,6,8]", "network.strides=[[1,1,1],[2,2,2],[2,2,2]]"]
DEEPER += ["network.kernels=[[3,3,3],[3,3,3],[3,3,3]]", "network.encoder_convolutions=[1,1,1]"]
DEEPER += ["network.decoder_convolutions=[1,1]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace whose fold 0 is a U-Net++ of three stages, and fold 1 a U-Net."""
    folder = tmp_path_factory.mktemp("prune")
    workspace = write_tiny_workspace(folder)
    words = ["train", f"workspace={workspace}", "device=cpu", "iterations=12", "validate_fold=false"]
    assert main([*words, *DEEPER]) == 0
    return workspace


def prune(workspace, *words):
    return main(["prune", f"workspace={workspace}", "device=cpu", *words])


def test_every_level_is_compared_and_the_chosen_one_is_a_smaller_model(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prune(trained) == 0
    shown = capsys.readouterr().out
    assert "2 (all)" in shown
    assert "difference to all" in shown
    assert prune(trained, "level=1", f"output={tmp_path / 'small'}") == 0
    model = open_model(tmp_path / "small")
    network = model.load().configuration.network
    assert network.features == (4, 6)
    whole = open_model(trained).load("3d_fullres", [0]).configuration.network
    whole = whole.model_copy(update={"deep_supervision": False})  # heads that only training needs
    assert f"{parameter_count(network, 1, 3):,}" in shown
    assert f"{parameter_count(whole, 1, 3):,}" in shown
    manifest = json.loads((tmp_path / "small/bundle.json").read_text())
    assert manifest["metrics"]["pruned"]["level"] == 1
    words = [f"model={tmp_path / 'small'}", f"input={trained.parent / 'data/images'}", f"output={tmp_path / 'o'}"]
    assert main(["predict", *words, "device=cpu"]) == 0
    assert len(list((tmp_path / "o").glob("*.nii.gz"))) == 5


def test_what_can_not_be_cut_is_refused(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prune(trained, "level=3", f"output={tmp_path / 'small'}") == 2
    assert "level=3 should be one of 1, 2" in capsys.readouterr().err
    assert prune(trained, "level=1") == 2
    assert "level= and output= together" in capsys.readouterr().err
    plain = write_tiny_workspace(tmp_path)
    assert main(["train", f"workspace={plain}", "device=cpu", "iterations=1", "validate_fold=false"]) == 0
    assert prune(plain) == 2
    assert "this is a 'unet'" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()
