"""From trained folds to ``calibration.json``, and a bundle that carries it."""

import pytest

from medseg.cases.folds import Fold, Folds
from medseg.cli import main
from medseg.inference.bundle import open_model
from medseg.paths import Workspace
from medseg.uncertainty.calibration import Calibration

from tiny import write_tiny_workspace


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Five cases in two folds, both trained for a few iterations."""
    folder = tmp_path_factory.mktemp("calibrated")
    workspace = Workspace(write_tiny_workspace(folder))
    names = [f"case_{index:02d}" for index in range(5)]
    folds = (Fold(validation=tuple(names[:3])), Fold(validation=tuple(names[3:])))
    Folds(rule="by hand", seed=0, cases={name: name for name in names}, folds=folds).save(workspace.folds)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "fold=all", f"workspace={workspace.folder}", "iterations=12", "device=cpu"]) == 0
        assert main(["calibrate", f"workspace={workspace.folder}", "rate=0.6"]) == 0
    return workspace


def test_held_out_cases_give_temperatures_coverage_and_quality(trained):
    found = Calibration.load(trained.calibration)
    assert found.cases == 5
    assert found.identities == {"3d_fullres": open_model(trained.folder).load("3d_fullres", [0, 1]).identity}
    assert found.temperature != 1
    assert 0 < found.before.voxels <= found.before_everywhere.voxels == pytest.approx(5 * 20 * 24 * 16)
    assert found.after.nll < found.before.nll
    assert [one.name for one in found.structures] == ["ball", "box"]
    for structure in found.structures:
        assert len(structure.numbers.outer) == len(structure.numbers.volume) == 5
        assert structure.coverage["outer"].cases == 5
    assert trained.calibration.with_suffix(".png").stat().st_size > 10_000


def test_a_bundle_carries_it_without_a_case_s_name(trained, tmp_path):
    assert main(["bundle", f"workspace={trained.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    carried = open_model(tmp_path / "bundle").calibration
    assert carried is not None
    assert Calibration.load(carried) == Calibration.load(trained.calibration)
    assert "case_0" not in carried.read_text()


def test_the_same_cases_give_the_same_bytes(trained):
    before = trained.calibration.read_bytes()
    assert main(["calibrate", f"workspace={trained.folder}", "rate=0.6"]) == 0
    assert trained.calibration.read_bytes() == before


def test_without_a_trained_fold_one_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace = write_tiny_workspace(tmp_path)
    assert main(["calibrate", f"workspace={workspace}"]) == 2
    assert "no trained fold" in capsys.readouterr().err
