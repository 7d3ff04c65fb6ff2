import pytest

from medseg.cases.formats import save_dataset
from medseg.cli import main
from medseg.paths import Workspace
from medseg.planning.plan import Plan

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
