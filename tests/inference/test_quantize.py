"""Eight-bit exports predict nearly the same labels, say what they cost, and are refused where they cost too much."""

import numpy as np
import pytest

from medseg.cli import main
from medseg.images.formats import read_labels
from medseg.inference import quantize
from medseg.inference.export import Export

from tiny import write_tiny_workspace

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'medseg[onnx]'")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Trained for a moment, so that the network's values are those of a trained one."""
    folder = tmp_path_factory.mktemp("int8")
    made = write_tiny_workspace(folder)
    assert main(["train", f"workspace={made}", "fold=0", "iterations=40"]) == 0
    return made


@pytest.mark.slow
def test_an_eight_bit_export_predicts_nearly_the_same_labels_and_says_what_it_costs(workspace, tmp_path, capsys):
    words = [f"model={workspace}", f"output={tmp_path / 'small'}"]
    assert main(["export", *words, "precision=int8"]) == 0
    printed = capsys.readouterr().out
    assert "times as fast" in printed
    export = Export.load(tmp_path / "small" / "export.json")
    report = export.quantised["0"]
    assert export.precision == "int8"
    assert report.dice_before - report.dice <= quantize.MOST_LOST
    assert f"Dice {report.dice:.4f} (before {report.dice_before:.4f}" in printed
    labels = []
    for name, model in (("by_int8", tmp_path / "small"), ("by_float", workspace)):
        words = [f"model={model}", f"input={workspace.parent / 'data/images'}", f"output={tmp_path / name}"]
        assert main(["predict", *words, "picture=false"]) == 0
        labels.append([read_labels(path).array for path in sorted((tmp_path / name).glob("*.nii.gz"))])
    assert np.mean([np.mean(a == b) for a, b in zip(*labels, strict=True)]) > 0.99


@pytest.mark.slow
def test_what_loses_too_much_is_refused_and_nothing_is_written(workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantize, "MOST_LOST", -1.0)
    assert main(["export", f"model={workspace}", f"output={tmp_path / 'small'}", "precision=int8"]) == 2
    assert "Export it with precision=float32" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_eight_bits_are_for_onnx_alone(workspace, tmp_path, capsys):
    words = [f"model={workspace}", f"output={tmp_path / 'small'}", "precision=int8", "format=torchscript"]
    assert main(["export", *words]) == 2
    assert "precision=int8 is for ONNX Runtime" in capsys.readouterr().err
