"""Regions and sparse labels from the command line: plan, train, predict, evaluate, each as a user would type it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.cases.dataset import Dataset
from medseg.cases.formats import save_dataset
from medseg.cases.labels import LabelTable
from medseg.cases.regions import Region
from medseg.cli import main
from medseg.evaluation.scores import Scores
from medseg.images.formats import read_labels, write_labels

from tiny import TABLE, write_tiny_dataset

REGIONS = (
    Region(name="both", labels=("ball", "box"), written=1),
    Region(name="the box", labels=("box",), written=2),
)
BEST = ["quality=best"]
"""As held-out cases are predicted after training."""
SMALL = ["network.features=[4,8]", "network.strides=[[1,1,1],[2,2,2]]", "network.kernels=[[3,3,3],[3,3,3]]",
         "network.encoder_convolutions=[1,1]", "network.decoder_convolutions=[1]", "patch_size=[16,16,16]"]  # fmt: skip


def tiny_dataset(folder: Path, table: LabelTable) -> Dataset:
    """Ten cases; where the table has an ignore value, only every third slice is annotated."""
    dataset = replace(write_tiny_dataset(folder, 10), labels=table)
    for case in dataset.cases if table.ignore is not None else ():
        assert case.labels is not None
        volume = read_labels(case.labels)
        sparse = np.full_like(volume.array, table.ignore)
        sparse[1::3] = volume.array[1::3]
        write_labels(case.labels, sparse, volume)
    save_dataset(dataset, folder / "dataset.yaml")
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("regions", [(), REGIONS], ids=["structures", "regions"])
@pytest.mark.parametrize("ignore", [None, 9], ids=["dense", "sparse"])
def test_targets_go_through_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regions, ignore) -> None:
    monkeypatch.chdir(tmp_path)
    table = LabelTable(labels=TABLE.labels, regions=regions, ignore=ignore)
    dataset = tiny_dataset(tmp_path / "data", table)
    assert main(["check", "dataset=data"]) == 0
    assert main(["plan", "dataset=data", "device=cpu"]) == 0
    assert main(["train", "iterations=60", "device=cpu", *SMALL]) == 0
    fold = tmp_path / "runs/tiny/3d_fullres/fold_0"
    scores = Scores.load(fold / "scores.json")
    assert [structure.name for structure in scores.structures] == list(table.target_names)
    assert scores.mean_dice is not None
    assert scores.mean_dice > 0.5

    assert main(["bundle", "output=bundle"]) == 0
    assert main(["predict", "model=bundle", "input=data/images", "output=predicted", "device=cpu", *BEST]) == 0
    for case in dataset.cases:
        assert set(np.unique(read_labels(tmp_path / f"predicted/{case.images[0].name}").array)) <= {0, 1, 2}
    assert main(["evaluate", "predictions=predicted", "labels=data/labels"]) == 0
    evaluated = Scores.load(tmp_path / "predicted/evaluation/scores.json")
    assert [structure.name for structure in evaluated.structures] == list(table.target_names)

    # A held-out case has the same score from its file as it had after training.
    held_out = json.loads((fold / "recipe.json").read_text())["validation_cases"]
    by_file = {f"case_{int(one.case):02d}": one.structures for one in evaluated.cases}
    assert len(held_out) == 2
    for one in scores.cases:
        assert [part.dice for part in one.structures] == [part.dice for part in by_file[one.case]]
    assert main(["select"]) == 0
