"""A fold trains to the same bytes, however it was interrupted and however many workers load its patches."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision

from medseg.errors import CheckpointError, MedsegError
from medseg.files import hash_file
from medseg.networks.weights import load_weights
from medseg.planning.plan import OptimizerPlan
from medseg.preprocessing.store import prepare_cases
from medseg.progress import Silent
from medseg.training.budget import seconds_per_iteration
from medseg.training.checkpoint import CheckpointRecord, checkpoints, load_newest
from medseg.training.fold import train_fold
from medseg.training.recipe import Recipe
from medseg.training.recorder import read_log
from medseg.training.schedule import Part, Schedule, continued_stretch

from tiny import TABLE, tiny_plan, tiny_recipe, write_tiny_dataset


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    dataset = write_tiny_dataset(folder / "data")
    plan = tiny_plan()
    prepare_cases(dataset.cases, TABLE, plan, plan.configurations["3d_fullres"], folder / "prepared")
    return folder / "prepared"


def _train(recipe: Recipe, prepared: Path, folder: Path, workers: int = 0, save_every: float = 1e9) -> str:
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1)
    train_fold(fabric, recipe, prepared, folder, Silent(), workers, save_every)
    return hash_file(folder / "weights.safetensors")


def test_equal_seeds_give_equal_bytes_with_no_and_with_two_workers(prepared: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    hashes = {_train(recipe, prepared, tmp_path / str(workers), workers) for workers in (0, 2)}
    assert len(hashes) == 1
    names = [path.with_suffix(s).name for path in checkpoints(tmp_path / "0") for s in (".json", ".safetensors")]
    assert names
    for name in names:
        assert hash_file(tmp_path / "0" / name) == hash_file(tmp_path / "2" / name)
    assert _train(tiny_recipe(seed=2), prepared, tmp_path / "other") not in hashes


_STOPPABLE = """
import sys
from pathlib import Path
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from medseg.progress import Silent
from medseg.training.fold import train_fold
from medseg.training.recipe import Recipe
torch.set_num_threads(1)
train_fold(Fabric(accelerator="cpu", devices=1), Recipe.load(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]),
    Silent(), 0, 0.0)
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_ends_in_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(60)
    undisturbed = _train(recipe, prepared, tmp_path / "undisturbed")
    recipe.save(tmp_path / "recipe.json")
    folder = tmp_path / "killed"
    kills = 0
    command = [sys.executable, "-c", _STOPPABLE, str(tmp_path / "recipe.json"), str(prepared), str(folder)]
    for extra in (0.0, 0.11, 0.23, 0.31):
        process = subprocess.Popen(command)
        before = [path.name for path in checkpoints(folder)]
        while process.poll() is None and [path.name for path in checkpoints(folder)] == before:
            time.sleep(0.005)
        time.sleep(extra)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert subprocess.run(command, check=False).returncode == 0
    assert hash_file(folder / "weights.safetensors") == undisturbed
    assert not list(folder.glob(".partial-*.json"))


class Interrupt(Silent):
    """Ends a training after so many of its steps, as Ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1, **shown: str) -> None:
        if shown:
            self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def _interrupted(recipe: Recipe, prepared: Path, folder: Path, *after: int, save_every: float = 0.0) -> str:
    """The same training, interrupted after so many steps each, by default with a checkpoint after every step."""
    for steps in after:
        _train_up_to(recipe, prepared, folder, steps, save_every)
    return _train(recipe, prepared, folder)


def _train_up_to(recipe: Recipe, prepared: Path, folder: Path, steps: int, save_every: float = 0.0) -> None:
    torch.set_num_threads(1)
    with pytest.raises(KeyboardInterrupt):
        train_fold(Fabric(accelerator="cpu", devices=1), recipe, prepared, folder, Interrupt(steps), 0, save_every)


QUICK = OptimizerPlan(name="adamw", learning_rate=3e-2, weight_decay=0)


def test_a_plateau_ends_a_training_early_at_the_same_iteration_however_it_was_interrupted(
    prepared: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(210, 7, optimizer=QUICK, early_stop=True)
    undisturbed = _train(recipe, prepared, tmp_path / "a")
    record = CheckpointRecord.load(checkpoints(tmp_path / "a")[-1])
    (decay,) = record.course.decays
    assert record.course.iteration == decay.end < 210
    assert decay.start % 7 == 0
    assert decay.rate == Schedule(recipe.parts).rate_at(decay.start)
    assert record.course.checks[-1].dice > 0.9
    rows = read_log(tmp_path / "a" / "log.csv")
    assert rows[-1]["learning_rate"] < 0.05 * decay.rate
    assert [row["iteration"] for row in rows if row["held_out_dice"]] == [c.iteration for c in record.course.checks]
    assert load_weights(tmp_path / "a" / "weights.safetensors")[1]["iterations"] == decay.end

    assert _interrupted(recipe, prepared, tmp_path / "b", 50, decay.start - 40, 9, save_every=0.1) == undisturbed
    assert CheckpointRecord.load(checkpoints(tmp_path / "b")[-1]) == record


def extended(recipe: Recipe, done: int, iterations: int) -> Recipe:
    stretch = continued_stretch(Schedule(recipe.parts), done, recipe.training.optimizer, iterations)
    part = Part(stretch=stretch, watch=recipe.parts[0].watch)
    return recipe.model_copy(update={"parts": (*recipe.parts, part)})


@pytest.mark.parametrize(("done", "iterations"), [(12, 20), (7, 9)])
def test_an_extended_or_shortened_training_ends_in_the_same_bytes_however_it_was_interrupted(
    prepared: Path, tmp_path: Path, done: int, iterations: int
) -> None:
    recipe = tiny_recipe(12)
    first = tmp_path / "first"
    if done < 12:
        _train_up_to(recipe, prepared, first, done)
    else:
        _train(recipe, prepared, first, save_every=0.0)
    assert [int(path.stem[-3:]) for path in checkpoints(first)] == [done - 1, done]
    longer = extended(recipe, done, iterations)
    shutil.copytree(first, tmp_path / "again")
    assert _train(longer, prepared, first) == _interrupted(longer, prepared, tmp_path / "again", 0, 1)
    assert read_log(first / "log.csv")[-1]["iteration"] == iterations
    # The checkpoint at which it was extended is damaged: the one before leads there by the old schedule.
    shutil.rmtree(tmp_path / "again")
    shutil.copytree(first, tmp_path / "again", ignore=shutil.ignore_patterns("checkpoint_*"))
    _train_up_to(recipe, prepared, tmp_path / "again", done - 2)
    assert _train(longer, prepared, tmp_path / "again") == hash_file(first / "weights.safetensors")


def test_a_checkpoint_from_after_an_extension_needs_it(prepared: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(4)
    _train(recipe, prepared, tmp_path)
    _train(extended(recipe, 4, 6), prepared, tmp_path)
    with pytest.raises(CheckpointError, match="another training"):
        load_newest(tmp_path, recipe)


def _train_in_half_precision(recipe: Recipe, prepared: Path, folder: Path, listener: Silent | None = None) -> str:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # what an earlier fold has left behind
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=precision)
    train_fold(fabric, recipe, prepared, folder, listener or Silent(), 0, 0.0)
    return hash_file(folder / "weights.safetensors")


def test_float16_goes_on_with_the_gradient_scaler_it_had(prepared: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(6)
    undisturbed = _train_in_half_precision(recipe, prepared, tmp_path / "a")
    record = CheckpointRecord.load(checkpoints(tmp_path / "a")[-1])
    assert record.gradient_scaler is not None
    assert (record.gradient_scaler["scale"], record.gradient_scaler["_growth_tracker"]) == (65536, 6)
    with pytest.raises(KeyboardInterrupt):
        _train_in_half_precision(recipe, prepared, tmp_path / "b", Interrupt(3))
    assert _train_in_half_precision(recipe, prepared, tmp_path / "b") == undisturbed
    assert CheckpointRecord.load(checkpoints(tmp_path / "b")[-1]) == record


def test_a_damaged_checkpoint_falls_back_to_the_one_before(prepared: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    expected = _train(recipe, prepared, tmp_path, save_every=0.0)
    newest = checkpoints(tmp_path)[-1].with_suffix(".safetensors")
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(bytes(damaged))
    found = load_newest(tmp_path, recipe)
    assert found is not None
    assert found[0].course.iteration == recipe.iterations - 1
    (tmp_path / "weights.safetensors").unlink()
    assert _train(recipe, prepared, tmp_path) == expected


def test_a_checkpoint_of_another_recipe_is_refused(prepared: Path, tmp_path: Path) -> None:
    _train(tiny_recipe(), prepared, tmp_path)
    with pytest.raises(CheckpointError, match="another training"):
        load_newest(tmp_path, tiny_recipe(seed=9))


def test_only_damaged_checkpoints_are_an_error_not_a_fresh_start(prepared: Path, tmp_path: Path) -> None:
    _train(tiny_recipe(), prepared, tmp_path)
    for path in checkpoints(tmp_path):
        path.with_suffix(".safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="damaged"):
        load_newest(tmp_path, tiny_recipe())


def test_it_learns_a_ball_and_a_box(prepared: Path, tmp_path: Path) -> None:
    _train(
        tiny_recipe(80, 20, optimizer=OptimizerPlan(name="adamw", learning_rate=1e-2, weight_decay=0)),
        prepared,
        tmp_path,
    )
    rows = (tmp_path / "log.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert float(last["held_out_dice"]) > 0.7


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_case(prepared: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "prepared"
    shutil.copytree(prepared, damaged)
    for index in range(4):
        image = np.load(damaged / f"case_{index:02d}" / "image.npy", mmap_mode="r+")
        image[:] = np.nan
        image.flush()
    with pytest.raises(MedsegError, match=r"iteration 0 on cases case_0\d, case_0\d.*optimizer.learning_rate"):
        _train(tiny_recipe(), damaged, tmp_path / "fold")
    assert not (tmp_path / "fold" / "weights.safetensors").exists()


def test_without_held_out_cases_it_trains_on_everything(prepared: Path, tmp_path: Path) -> None:
    everything = tiny_recipe()
    part = everything.parts[0].model_copy(update={"watch": None})
    everything = everything.model_copy(update={"validation_cases": (), "fold": "full", "parts": (part,)})
    _train(everything, prepared, tmp_path)
    assert all(row["held_out_dice"] is None for row in read_log(tmp_path / "log.csv"))


def test_a_probe_measures_the_same_work_and_leaves_nothing_behind(prepared: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    each = seconds_per_iteration(Fabric(accelerator="cpu", devices=1), tiny_recipe(1000), prepared, 0.3)
    assert 0 < each < 5
    assert not list(tmp_path.iterdir())


def test_a_network_is_kept_at_the_end_of_every_cycle_and_a_resumed_training_keeps_the_same(
    prepared: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(iterations=6, every=1_000)
    (part,) = recipe.parts
    stretch = part.stretch.model_copy(update={"cycles": 3})
    recipe = recipe.model_copy(update={"parts": (part.model_copy(update={"stretch": stretch}),)})
    names = ("snapshot_1.safetensors", "snapshot_2.safetensors", "weights.safetensors")
    _train(recipe, prepared, tmp_path / "whole")
    kept = [hash_file(tmp_path / "whole" / name) for name in names]
    assert len(set(kept)) == 3
    assert load_weights(tmp_path / "whole" / names[0])[1]["iterations"] == 2
    _train(recipe, prepared, tmp_path / "again", save_every=0)
    assert [hash_file(tmp_path / "again" / name) for name in names] == kept
    for name in (names[2], "checkpoint_0000006.json", "checkpoint_0000006.safetensors"):
        (tmp_path / "again" / name).unlink()
    _train(recipe, prepared, tmp_path / "again")
    assert [hash_file(tmp_path / "again" / name) for name in names] == kept
