"""``medseg compare`` trains choices alike, goes on where it stopped, and says what each is worth."""

import json

import pytest

from medseg.cli import main
from medseg.evaluation.trials import Trials
from medseg.networks.build import BUILDERS

from tiny import write_tiny_workspace


def compare(workspace, *words):
    return main(["compare", f"workspace={workspace}", "device=cpu", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "networks to compare or the losses"),
        (("networks=[unet,light]", "losses=[ce,dice]"), "networks to compare or the losses"),
        (("networks=[unet]",), "At least two different choices"),
        (("networks=[unet,unet]",), "At least two different choices"),
        (("networks=[unet,lihgt]",), "Did you mean 'light'"),
        (("losses=[ce,boundary]",), "alone a network does not learn"),
        (("networks=[unet,light]", "reference=deeplab"), "reference=deeplab is not among"),
        (("networks=[unet,light]", "seeds=[1,1]"), "seeds should be different"),
    ],
)
def test_what_can_not_be_compared_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    workspace = write_tiny_workspace(tmp_path)
    assert compare(workspace, *words) == 2
    assert message in capsys.readouterr().err
    assert not (workspace / "comparison").exists()


@pytest.mark.slow
def test_losses_are_trained_alike_compared_and_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace = write_tiny_workspace(tmp_path)
    words = ("losses=[dice_ce,ce+0.5*dice]", "iterations=3")
    assert compare(workspace, *words) == 0
    folder = workspace / "comparison/losses"
    found = Trials.load(folder / "comparison.json")
    assert len({trial.name for trial in found.trials}) == 2
    assert found.reference == "dice_ce"
    assert len(found.cases) == 1
    for trial in found.trials:
        assert 0 <= trial.metrics["dice"].dice <= 1
        assert 0 <= trial.ece <= 1
        assert trial.iterations == {1: 3}
        assert trial.peak_memory_bytes > 50e6
        assert trial.cpu_seconds_per_iteration > 0
        assert not trial.resumed
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "comparison.csv").read_text().count("\n") == 3
    assert "None is better than dice_ce by more than chance" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/last_used.json").read_text())["workspace"] == str(workspace)

    done, stopped = sorted(folder.glob("*/3d_fullres/fold_0"))
    weights = (stopped / "weights.safetensors").read_bytes()
    for name in ("run.json", "scores.json", "weights.safetensors"):
        (stopped / name).unlink()
    untouched = (done / "run.json").read_bytes()
    assert compare(workspace, *words) == 0
    assert (done / "run.json").read_bytes() == untouched
    assert (stopped / "weights.safetensors").read_bytes() == weights
    again = {trial.name: trial for trial in Trials.load(folder / "comparison.json").trials}
    assert {name: trial.metrics for name, trial in again.items()} == {one.name: one.metrics for one in found.trials}
    assert sum(trial.resumed for trial in again.values()) == 1

    assert compare(workspace, "losses=[dice_ce,ce]", "iterations=4") == 2
    assert "another plan, fold or budget" in capsys.readouterr().err


@pytest.mark.slow
def test_every_network_trains_through_the_whole_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = write_tiny_workspace(tmp_path)
    assert compare(workspace, f"networks=[{','.join(BUILDERS)}]", "iterations=2") == 0
    folder = workspace / "comparison/networks"
    found = Trials.load(folder / "comparison.json")
    assert {trial.name for trial in found.trials} == set(BUILDERS)
    assert len({trial.parameters for trial in found.trials}) == len(BUILDERS)
    predicted = tmp_path / "predicted"
    words = [f"model={folder / 'segformer_seed1'}", f"input={tmp_path / 'data/images'}", f"output={predicted}"]
    assert main(["predict", *words, "device=cpu"]) == 0
    assert len(list(predicted.glob("*.nii.gz"))) == 5
