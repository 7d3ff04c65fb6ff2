"""The benchmark command: every contest of both suites runs, at a size that shows nothing but that."""

import pytest

from medseg.benchmarking.result import BenchmarkResult
from medseg.benchmarking.suite import SUITES
from medseg.cli import main


@pytest.mark.slow
def test_the_cpu_suite_runs_in_the_smoke_size_beside_the_peers_that_are_there(tmp_path, capsys):
    words = ["benchmark", "size=smoke", "turns=1", "threads=1", f"output={tmp_path}", "nnunet=/nowhere/python"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "nnU-Net is not compared: python3 -m venv" in printed
    result = BenchmarkResult.load(tmp_path / "benchmark.json")
    assert {row.id for row in result.rows} == set(SUITES["cpu"])
    peers = {row.peer for row in result.rows if row.theirs is not None}
    assert peers == {"MONAI", "MONAI sliding_window_inference", "surface-distance"}
    assert all(row.ours > 0 or row.id == "C4" for row in result.rows)
    (c10,) = [row for row in result.rows if row.id == "C10"]
    assert c10.facts["caught"] == c10.facts["faults"]


@pytest.mark.slow
def test_the_gpu_suite_runs_on_a_cpu_in_the_smoke_size(tmp_path):
    words = ["benchmark", "suite=gpu", "device=cpu", "size=smoke", "turns=1", "threads=1", f"output={tmp_path}"]
    assert main(words) == 0
    result = BenchmarkResult.load(tmp_path / "benchmark.json")
    assert {row.id for row in result.rows} == set(SUITES["gpu"])
    for row in result.rows:
        if row.id in ("G1", "G2", "G3"):
            assert row.facts["share_of_peak"] > 0


def test_a_contest_that_does_not_exist_is_a_mistake(capsys):
    assert main(["benchmark", "only=C1,C11"]) == 2
    assert "has no C11; it has C1, C2" in capsys.readouterr().err
    assert main(["benchmark", "suite=gpu", "only=C1"]) == 2
