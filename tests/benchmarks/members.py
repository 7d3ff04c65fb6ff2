"""Ensemble, dropout, mirror images, snapshots and a learned spread: calibration, where errors are, expected Dice, time.

    python tests/benchmarks/members.py [FOLDER] [iterations]

For each of three seeds three folds are trained on phantoms of an abdomen, with dropout and two snapshots. New patients
are then predicted, each as it is and with something done to its image (noise, blur or other grey levels, in random
strength), by the three folds (ensemble), by ten samples of the first fold's dropout, by its mirror images, and by its
two snapshots; and by the first fold trained anew with a head that learns what may be otherwise. Of each: ECE, and AUROC
of the entropy against errors, both over voxels in doubt (the background's probability below 0.99); rank correlation of
the expected with the true Dice over all images and structures; mean Dice; seconds for an image, to be compared with one
another only. Mean over seeds and, in brackets, the 95 % interval by Student's t. In a FOLDER that was named, a seed
that a killed run has measured is not measured again.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr, t
from torch import Tensor

from medseg.cases.phantoms import load_recipe, make_phantom, write_phantoms
from medseg.evaluation.calibration import CalibrationCounts, class_outcomes
from medseg.evaluation.comparison import target_dice
from medseg.files import write_text
from medseg.images.volume import Volume
from medseg.inference.bundle import open_model
from medseg.inference.decision import decision_of
from medseg.inference.memory import Layout
from medseg.inference.model import Networks
from medseg.inference.options import Options
from medseg.inference.passes import LabelsOfAverage, Passes, PreparedImage
from medseg.preprocessing.grid import Grid
from medseg.uncertainty.case import MemberSpread, Trust
from medseg.uncertainty.members import join_configurations
from medseg.uncertainty.sample import in_doubt

from trials import run

SEEDS = (1, 2, 3)
CASES, NEW, FIRST_NEW = 15, 6, 1000
MEASURES = ("ECE", "AUROC", "rank of Dice", "mean Dice", "seconds")


class Outcomes:
    """Calibration of the mean probabilities where they are in doubt; an accumulator of ``medseg.inference``."""

    def __init__(self, grid: Grid, truth: np.ndarray, counts: CalibrationCounts, table) -> None:
        box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
        self._truth, self._counts, self._table = grid.orient(truth)[box], counts, table

    def add(self, index: int, rows: Sequence[Tensor]) -> None:
        found = join_configurations(list(rows), self._table).mean.flatten(1).numpy()
        kept = in_doubt(found, True)
        self._counts.add(class_outcomes(found[:, kept], self._truth[index].ravel()[kept].astype(np.int64)))


def changed(image: Volume, random: np.random.Generator) -> Volume:
    """Noise, blur or other grey levels, in random strength."""
    kind, strength, array = int(random.integers(3)), float(random.uniform(0.2, 1)), image.array
    if kind == 0:
        array = array + random.normal(0, 150 * strength, array.shape)
    elif kind == 1:
        array = gaussian_filter(array, (0, *(2.5 * strength,) * 3))
    else:
        array = array * (1 - 0.7 * strength) + 150 * strength
    return replace(image, array=np.ascontiguousarray(array, dtype=np.float32))


def ways_of(model, learned) -> dict[str, tuple[Networks, MemberSpread, bool]]:
    """Networks, what watches them, and whether mirror images are members."""
    first, trust = model.load(folds=[0]), Trust(model.labels, None, 0.9)
    return {
        "ensemble": (model.load(), MemberSpread("ensemble", trust), False),
        "dropout": (first, MemberSpread("dropout", trust, samples=10), False),
        "mirror images": (first, MemberSpread("tta", trust), True),
        "snapshots": (model.with_snapshots(first), MemberSpread("snapshots", trust), False),
        "learned": (learned.load(folds=[0]), MemberSpread("learned", trust), False),
    }


def measure(images: Sequence[tuple[Volume, np.ndarray]], networks: Networks, spread, mirror: bool) -> list[float]:
    """The MEASURES of one way."""
    counts, table, expected, true = CalibrationCounts(), networks.labels, [], []
    started = time.process_time()
    for image, truth in images:
        options = Options(torch.device("cpu"), mirror=mirror, spread=spread)
        prepared = PreparedImage(image, [networks])
        grid = prepared.prepare(networks)[1]
        seen, average = spread.accumulator(grid), LabelsOfAverage(grid, decision_of(table), [0])
        Passes(prepared, [networks], options, Layout()).stream([seen, average, Outcomes(grid, truth, counts, table)])
        expected += [one.estimate.expected_dice for one in seen.summary("").structures]
        true += target_dice(average.labels, truth, table)
    seconds = (time.process_time() - started) / len(images)
    pairs = np.array([(x, y) for x, y in zip(expected, true, strict=True) if x is not None and np.isfinite(y)])
    scores = counts.scores()
    rank = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
    return [scores.ece, scores.auroc or np.nan, rank, float(np.nanmean(true)), seconds]


def measured(seed: int, folder: Path, iterations: int) -> dict[str, list[float]]:
    """The MEASURES of each way for one seed."""
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run has left
    recipe = load_recipe("phantom_abdomen").model_copy(update={"spacing": (10.0, 8.0, 8.0), "seed": seed})
    write_phantoms(recipe, folder / "data", CASES)
    words = ("network.base_features=8", f"iterations={iterations}", "validate_fold=false", "device=cpu")
    for name, own in (
        ("W", ("fold=all", "network.dropout=0.2", "snapshots=2")),
        ("L", ("fold=0", "network.head=learned", "loss=[dice,learned]")),
    ):
        workspace = f"workspace={folder / name}"
        run("plan", f"dataset={folder / 'data'}", workspace, "budget=1min", "folds=3")
        run("train", workspace, *own, *words)
    model, learned, random = open_model(folder / "W"), open_model(folder / "L"), np.random.default_rng(seed)
    images = []
    for case in range(NEW):
        image, labels = make_phantom(recipe, FIRST_NEW + case)
        truth = model.labels.to_indices(labels.array)
        images += [(image, truth), (changed(image, random), truth)]
    return {name: measure(images, *way) for name, way in ways_of(model, learned).items()}


def known_or_measured(seed: int, folder: Path, iterations: int) -> dict[str, list[float]]:
    kept = folder / "measured.json"
    if not kept.is_file():
        write_text(kept, json.dumps(measured(seed, folder, iterations)))
    return json.loads(kept.read_text())


def described(values: np.ndarray) -> str:
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{values.mean():.3f} [{values.mean() - half:.3f}, {values.mean() + half:.3f}]"


def main(folder: Path, iterations: int) -> None:
    found = [known_or_measured(seed, folder / str(seed), iterations) for seed in SEEDS]
    print(f"{len(SEEDS)} seeds, 3 folds of {CASES} cases, {iterations} iterations, {2 * NEW} new images")
    for name in found[0]:
        columns = np.array([one[name] for one in found]).T
        cells = (f"{what} {described(column)}" for what, column in zip(MEASURES, columns, strict=True))
        print(f"{name:14} {'   '.join(cells)}")


if __name__ == "__main__":
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(words[0] if words else temporary), int(words[1]) if len(words) > 1 else 100)
