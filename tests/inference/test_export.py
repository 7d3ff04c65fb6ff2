import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.cases.labels import LabelTable
from medseg.cases.regions import Region
from medseg.cli import main
from medseg.errors import CheckpointError, SettingsError
from medseg.images.formats import read_labels
from medseg.inference.bundle import open_model, write_bundle
from medseg.inference.export import Export, export_model
from medseg.inference.model import preparation_of
from medseg.networks.build import build_network
from medseg.networks.weights import save_weights
from medseg.paths import Workspace

from tiny import TABLE, tiny_plan, write_tiny_dataset

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'medseg[onnx]'")


REGIONS = LabelTable(
    labels=TABLE.labels,
    regions=(
        Region(name="both", labels=("ball", "box"), written=1),
        Region(name="box", labels=("box",), written=2),
    ),
)


def trained(folder: Path, dimensions: int = 3, folds: int = 1, table: LabelTable = TABLE) -> Workspace:
    """A workspace with networks of random weights."""
    plan, workspace = tiny_plan(dimensions), Workspace(folder)
    plan.save(workspace.plan)
    table.save(workspace.labels)
    name, configuration = plan.configuration(None)
    for fold in range(folds):
        torch.manual_seed(fold)
        network = build_network(configuration.network, dimensions, 1, table.outputs)
        description = {
            "configuration_name": name,
            "configuration": configuration.model_dump(mode="json", exclude_none=True),
            "channels": 1,
            "classes": table.outputs,
            "activation": table.activation,
            "mirror_axes": [0, 1, 2],
            "preparation": preparation_of(plan),
        }
        save_weights(workspace.weights(name, fold), network.state_dict(), description)
    return workspace


def predicted(tmp_path: Path, model: Path, name: str, *words: str) -> list[np.ndarray]:
    output = tmp_path / name
    code = main(["predict", f"model={model}", f"input={tmp_path / 'data/images'}", f"output={output}", *words])
    assert code == 0
    return [read_labels(path).array for path in sorted(output.glob("*.nii.gz"))]


@pytest.mark.parametrize(("dimensions", "table"), [(2, TABLE), (3, TABLE), (3, REGIONS)])
def test_an_exported_model_predicts_the_same_labels(tmp_path, dimensions, table):
    write_tiny_dataset(tmp_path / "data", 2)
    workspace = trained(tmp_path / "work", dimensions, folds=2, table=table)
    assert main(["export", f"model={workspace.folder}", f"output={tmp_path / 'export'}"]) == 0
    by_torch = predicted(tmp_path, workspace.folder, "torch", "picture=false")
    by_graph = predicted(tmp_path, tmp_path / "export", "onnx", "picture=false")
    assert len(by_torch) == 2
    assert len(np.unique(by_torch[0])) > 1
    voxels = sum(labels.size for labels in by_torch)
    # Two ways of adding the same numbers differ in their last bits, so a voxel on the very border may go either way.
    assert sum(int((a != b).sum()) for a, b in zip(by_torch, by_graph, strict=True)) <= voxels // 10_000


def test_engine_onnx_runs_a_workspace_as_it_stands(tmp_path):
    write_tiny_dataset(tmp_path / "data", 1)
    workspace = trained(tmp_path / "work")
    (by_torch,) = predicted(tmp_path, workspace.folder, "torch", "picture=false")
    (by_graph,) = predicted(tmp_path, workspace.folder, "onnx", "engine=onnx", "picture=false")
    assert (by_torch != by_graph).mean() <= 1e-4


def test_an_export_says_how_to_prepare_and_what_the_classes_are(tmp_path):
    workspace = trained(tmp_path / "work")
    export_model(open_model(workspace.folder), tmp_path / "export")
    export = Export.load(tmp_path / "export/export.json")
    assert export.patch_size == (16, 16, 16)
    assert [label.name for label in export.labels] == ["background", "ball", "box"]
    assert export.input["shape"] == ["batch", 1, 16, 16, 16]
    assert export.channels[0].normalisation == "zscore"
    assert set(export.networks) == {"0"}
    assert (tmp_path / "export" / export.networks["0"]).is_file()
    assert "export.json" in json.loads((tmp_path / "export/bundle.json").read_text())["files"]


def test_an_export_of_regions_says_in_which_order_they_are_written(tmp_path):
    workspace = trained(tmp_path / "work", table=REGIONS)
    export_model(open_model(workspace.folder), tmp_path / "export")
    export = Export.load(tmp_path / "export/export.json")
    assert [(label.index, label.name, label.value) for label in export.labels] == [(0, "both", 1), (1, "box", 2)]
    assert "sigmoid" in export.tiling
    assert "above 1/2" in export.restoring
    assert export.output["shape"] == ["batch", 2, 16, 16, 16]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_gives_the_same_logits(tmp_path):
    workspace = trained(tmp_path / "work")
    model = open_model(workspace.folder)
    export = export_model(model, tmp_path / "export", "torchscript")
    script = torch.jit.load(tmp_path / "export" / export.networks["0"])
    (network,) = model.load().networks
    tiles = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(script(tiles), network(tiles))


def test_a_graph_with_a_flipped_byte_is_refused(tmp_path):
    export = export_model(open_model(trained(tmp_path / "work").folder), tmp_path / "export")
    path = tmp_path / "export" / export.networks["0"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        open_model(tmp_path / "export")


def test_a_graph_is_neither_exported_again_nor_run_by_torch(tmp_path):
    export_model(open_model(trained(tmp_path / "work").folder), tmp_path / "export")
    model = open_model(tmp_path / "export")
    with pytest.raises(CheckpointError, match="exported graph already"):
        export_model(model, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(SettingsError, match="engine=torch"):
        model.load(engine="torch")


def test_an_exported_bundle_is_a_bundle_of_a_bundle(tmp_path):
    write_bundle(trained(tmp_path / "work"), tmp_path / "bundle")
    export_model(open_model(tmp_path / "bundle"), tmp_path / "export")
    assert open_model(tmp_path / "export").weights["3d_fullres"].keys() == {0}


def test_without_the_extra_one_sentence_names_it(tmp_path, monkeypatch, capsys):
    workspace = trained(tmp_path / "work")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", f"model={workspace.folder}", f"output={tmp_path / 'export'}"]) == 2
    assert "pip install 'medseg[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
