import pytest

from medseg.cases.folds import Fold, Folds
from medseg.cli import main
from medseg.paths import Workspace

from tiny import write_tiny_workspace


@pytest.fixture(scope="session")
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
