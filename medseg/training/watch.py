"""Held-out Cases predicted whole while a training runs: which, how often, and what came out.

The prediction is a cheap one: no mirror images, tiles side by side, scored on the prepared grid. How often follows from
the iterations alone, never from the clock, so that a training that was interrupted sees the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import lightning_fabric
import numpy as np
from numpy.typing import NDArray
from torch import nn

from medseg.cases.labels import LabelTable
from medseg.inference.decision import decide, decision_of
from medseg.inference.memory import choose_tile_batch
from medseg.inference.sliding_window import predict_rows
from medseg.inference.tiles import tile_grid
from medseg.planning.plan import ConfigurationPlan
from medseg.preprocessing.store import PreparedCase, open_prepared
from medseg.training.course import Check
from medseg.training.recipe import Recipe
from medseg.training.schedule import Watch

_SHARE = 0.1
"""Of the iterations' cost that checks may take."""
_MOST_CHECKS, _MOST_CASES, _FEWEST_CASES = 30, 20, 4
_STEP = 1.0
_FORWARD_SHARE = 1 / 3
"""A training step goes through the network forwards, and backwards at twice that cost."""


def settle_watch(
    configuration: ConfigurationPlan, held_out: Sequence[str], prepared: Path, iterations: int, devices: int, seed: int
) -> Watch | None:
    """As many Cases (up to 20) and checks (up to 30) as a tenth of the cost of ``iterations`` affords.

    The Cases are a random choice that follows from the seed. The cost is counted in tiles and patches, so it is the
    same on every machine. None where nothing is held out, or the iterations do not afford a single check.
    """
    order = np.random.default_rng(seed).permutation(sorted(held_out)).tolist()
    if not order:
        return None
    costs = [_iterations_to_predict(open_prepared(prepared, name), configuration, devices) for name in order]
    affordable = _SHARE * iterations
    count = int(affordable / (_MOST_CHECKS * float(np.mean(costs))))
    count = min(max(count, _FEWEST_CASES), _MOST_CASES, len(order))
    checks = min(int(affordable / sum(costs[:count])), _MOST_CHECKS)
    return Watch(cases=tuple(sorted(order[:count])), every=-(-iterations // checks)) if checks else None


def share_of_time(watch: Watch | None, configuration: ConfigurationPlan, prepared: Path, devices: int) -> float:
    """How much longer an iteration takes by the checks: their cost over that of the iterations between them."""
    if watch is None:
        return 0.0
    cost = sum(_iterations_to_predict(open_prepared(prepared, name), configuration, devices) for name in watch.cases)
    return cost / watch.every


def _iterations_to_predict(case: PreparedCase, configuration: ConfigurationPlan, devices: int) -> float:
    """The cost of one Case in training iterations; one device predicts while the others wait."""
    z, y, x = case.labels.shape
    axes = tile_grid((z, y, x), configuration.patch_size, _STEP)
    tiles = int(np.prod([len(axis.starts) for axis in axes]))
    return _FORWARD_SHARE * tiles * devices / configuration.batch_size


class Watcher:
    """Predicts the watched Cases with the network as it is; the first of several processes does it for all."""

    def __init__(self, fabric: lightning_fabric.Fabric, network: nn.Module, prepared: Path, recipe: Recipe) -> None:
        self.seconds = 0.0
        """Spent so far."""
        self._fabric, self._network, self._prepared, self._recipe = fabric, network, prepared, recipe

    def check(self, watch: Watch, iteration: int) -> Check:
        """Score every watched Case; the same result in all processes."""
        started = time.monotonic()
        found: list[list[float | None]] = []
        if self._fabric.is_global_zero:
            self._network.eval()
            found = [self._dice_of(name) for name in watch.cases]
            self._network.train()
        found = self._fabric.broadcast(found)
        self.seconds += time.monotonic() - started
        columns = ([value for value in column if value is not None] for column in zip(*found, strict=True))
        means = tuple(float(np.mean(column)) if column else None for column in columns)
        return Check(iteration=iteration, structures=means)

    def _dice_of(self, name: str) -> list[float | None]:
        case, configuration, table = (
            open_prepared(self._prepared, name, self._recipe.is_cascade),
            self._recipe.configuration,
            self._recipe.labels,
        )
        device, decision = self._fabric.device, decision_of(table)
        values = len(table.known_values)
        counts = np.zeros((values, values), np.int64)
        image = case.network_input(self._recipe.structures_before)
        for rows in predict_rows(
            image,
            [self._network],
            configuration.patch_size,
            table.outputs,
            device=device,
            step=_STEP,
            tile_batch=choose_tile_batch(configuration, image.shape[0], table.outputs, device),
            activation=table.activation,
            case=name,
        ):
            predicted = decide(rows.scores, decision).cpu().numpy()
            truth = case.labels[rows.start : rows.start + len(predicted)]
            counts += _joint_counts(truth, predicted, values)
        return dice_of_counts(counts, table)


def dice_of_counts(counts: NDArray[np.int64], table: LabelTable) -> list[float | None]:
    """Dice of each target from voxel counts (truth, predicted) of every pair of label indices; None where it is absent.

    A target that the truth lacks has no Dice here, unlike in the final scores: a single stray voxel would make it jump
    between nothing and 0. Voxels that nobody annotated do not count.
    """
    annotated = counts[: len(table)]
    found: list[float | None] = []
    for target in table.targets:
        indices = list(target.indices)
        both, truth = annotated[np.ix_(indices, indices)].sum(), annotated[indices].sum()
        found.append(float(2 * both / (truth + annotated[:, indices].sum())) if truth else None)
    return found


def _joint_counts(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    pairs = truth.astype(np.int64) * classes + predicted
    return np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
