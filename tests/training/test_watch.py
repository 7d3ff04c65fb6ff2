"""Which held-out cases are predicted whole, how often, and what they score."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from medseg.cases.labels import LabelTable
from medseg.cases.regions import Region
from medseg.evaluation.metrics import score_case
from medseg.inference.predict import predict_image
from medseg.preprocessing.store import open_prepared, prepare_cases
from medseg.training.fold import new_network
from medseg.training.schedule import Watch
from medseg.training.watch import Watcher, dice_of_counts, settle_watch, share_of_time

from tiny import TABLE, tiny_plan, tiny_recipe, write_tiny_dataset

CONFIGURATION = tiny_plan().configurations["3d_fullres"]
HELD_OUT = tuple(f"case_{i:02d}" for i in range(6))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    prepare_cases(write_tiny_dataset(folder / "data").cases, TABLE, tiny_plan(), CONFIGURATION, folder / "prepared")
    return folder / "prepared"


@pytest.mark.parametrize("iterations", [60, 200, 3000, 100_000])
@pytest.mark.parametrize("devices", [1, 2])
def test_checks_cost_at_most_a_tenth_of_the_training(prepared: Path, iterations: int, devices: int) -> None:
    watch = settle_watch(CONFIGURATION, HELD_OUT, prepared, iterations, devices, seed=1)
    assert watch is not None
    assert 0 < share_of_time(watch, CONFIGURATION, prepared, devices) <= 0.1
    assert iterations // watch.every <= 30


def test_the_cases_follow_from_the_seed_and_a_long_training_watches_all(prepared: Path) -> None:
    few = [settle_watch(CONFIGURATION, HELD_OUT, prepared, 60, 1, seed) for seed in (1, 1, 2, 3)]
    assert few[0] == few[1]
    assert len({watch.cases for watch in few if watch}) > 1
    many = settle_watch(CONFIGURATION, HELD_OUT, prepared, 100_000, 1, 1)
    assert many is not None
    assert many.cases == HELD_OUT
    assert 100_000 // many.every == 29


def test_nothing_held_out_or_no_time_is_no_watch(prepared: Path) -> None:
    assert settle_watch(CONFIGURATION, (), prepared, 1000, 1, 1) is None
    assert settle_watch(CONFIGURATION, HELD_OUT, prepared, 3, 1, 1) is None
    assert share_of_time(None, CONFIGURATION, prepared, 1) == 0


def test_a_check_scores_whole_cases_as_the_final_scores_do(prepared: Path) -> None:
    """On these cases the prepared grid is the file's, and a step of 1 is the only difference."""
    recipe = tiny_recipe()
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(0)
    network = new_network(recipe)
    check = Watcher(fabric, network, prepared, recipe).check(Watch(cases=HELD_OUT[:3], every=1), 7)
    assert network.training
    expected = []
    for name in HELD_OUT[:3]:
        case = open_prepared(prepared, name)
        found = predict_image(case.image, case.grid, [network], CONFIGURATION, labels=TABLE, step=1.0)
        scores = score_case(found, np.asarray(case.labels), (1.0, 1.0, 1.0), TABLE)
        expected.append([structure.dice for structure in scores.structures])
    assert check.iteration == 7
    assert np.allclose(np.array(check.structures), np.mean(np.array(expected), axis=0))
    assert check.dice == pytest.approx(np.mean(expected))


def test_a_structure_that_the_truth_lacks_has_no_dice() -> None:
    counts = np.array([[90, 3, 1], [2, 4, 0], [0, 0, 0]])
    assert dice_of_counts(counts, TABLE) == [8 / 13, None]


def test_regions_are_scored_from_the_same_counts_and_what_nobody_annotated_is_left_out() -> None:
    counts = np.array([[90, 3, 1, 0], [2, 4, 5, 0], [6, 7, 8, 0], [50, 60, 70, 0]])
    whole, box = Region(name="both", labels=("ball", "box"), written=1), Region(name="b", labels=("box",), written=2)
    table = LabelTable(labels=TABLE.labels, regions=(whole, box), ignore=7)
    assert dice_of_counts(counts, table) == [2 * 24 / (32 + 28), 2 * 8 / (21 + 14)]
