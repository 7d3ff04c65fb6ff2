"""A network in eight-bit integers for ONNX Runtime: quantised after training, measured, and refused where Dice falls.

Static quantisation (min-max of the values seen in some tiles, weights per channel). It pays where the processor
multiplies bytes (VNNI) and layers are wide; elsewhere it is smaller but slower, so speed is measured and told as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.arrays import Labels
from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.errors import CheckpointError, SettingsError
from medseg.evaluation.metrics import score_case
from medseg.inference.onnx import INPUT, OnnxNetwork, described, to_onnx
from medseg.inference.predict import predict_image
from medseg.planning.plan import ConfigurationPlan, Plan
from medseg.preprocessing.prepare import prepare_image

MOST_LOST = 0.005
"""Dice; with more than that lost nothing is exported."""
_TILES = 24
_TURNS = 5


class Quantised(Record):
    """What became of one network."""

    dice: float
    """Of the quantised network: to the labels of the cases, or to the other network's where they have none."""
    dice_before: float
    """Of the network as it was; 1 where the cases have no labels."""
    cases: int
    """How many were compared."""
    times_as_fast: float
    """On the machine that exported it, one tile at a time."""
    bytes: int
    """Size of the graph."""
    bytes_before: int

    def __str__(self) -> str:
        return (
            f"Dice {self.dice:.4f} (before {self.dice_before:.4f}, {self.cases} case(s)), "
            f"{self.times_as_fast:.2f} times as fast, {self.bytes / 1e6:.1f} MB (before {self.bytes_before / 1e6:.1f})"
        )


@dataclass(frozen=True)
class Calibration:
    """Cases whose values decide the ranges, and others that are predicted before and after."""

    seen: Sequence[Case]
    judged: Sequence[Case]


def quantise(
    network: nn.Module,
    configuration: ConfigurationPlan,
    plan: Plan,
    labels: LabelTable,
    calibration: Calibration,
    description: Mapping[str, Any],
) -> tuple[bytes, Quantised]:
    """The network (torch, on the CPU) as a quantised graph with a description, and what it was measured to do.

    Raises CheckpointError when it loses more than 0.005 Dice, SettingsError without the extra.
    """
    predict = _Predict(configuration, plan, labels)
    tiles = _Tiles(network)
    for case in calibration.seen:
        predict(tiles, case)
    graph = to_onnx(network, tiles.kept[0].shape[1], configuration.patch_size, {})
    small = described(quantised_graph(graph, tiles.kept), description)
    before, after = OnnxNetwork(graph, "the export").eval(), OnnxNetwork(small, "the quantised export").eval()
    dice_before, dice = _compared(before, after, predict, calibration.judged, labels)
    if dice_before - dice > MOST_LOST:
        raise CheckpointError(
            f"In eight-bit integers the network loses {dice_before - dice:.4f} Dice on {len(calibration.judged)} "
            f"case(s), more than {MOST_LOST}; nothing was written. Export it with precision=float32."
        )
    speed = _times_as_fast(before, after, tiles.kept[0])
    cases = len(calibration.judged)
    return small, Quantised(
        dice=dice, dice_before=dice_before, cases=cases, times_as_fast=speed, bytes=len(small), bytes_before=len(graph)
    )


class _Tiles(nn.Module):
    """Keeps the first tiles of every case that a prediction puts through a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.kept: list[np.ndarray] = []

    def forward(self, tiles: Tensor) -> Tensor:
        """What the network gives."""
        if len(self.kept) < _TILES:
            self.kept += [tile[None].numpy().copy() for tile in tiles]
        return self.network(tiles)


@dataclass(frozen=True)
class _Predict:
    """Label indices of a case by one network."""

    configuration: ConfigurationPlan
    plan: Plan
    labels: LabelTable

    def __call__(self, network: nn.Module, case: Case) -> Labels:
        volume = read_case_image(case, len(self.plan.channels))
        prepared, grid = prepare_image(volume, self.plan, self.configuration)
        return predict_image(prepared, grid, [network], self.configuration, labels=self.labels, case=case.name)


def _compared(
    before: nn.Module, after: nn.Module, predict: _Predict, cases: Sequence[Case], table: LabelTable
) -> tuple[float, float]:
    """Mean Dice of both over the cases; where a case has no labels, those of the first network are the truth."""
    found: list[tuple[float, float]] = []
    for case in cases:
        first, second = predict(before, case), predict(after, case)
        volume = read_case_image(case, len(predict.plan.channels))
        truth = read_case_labels(case, table, volume).array if case.labels is not None else first
        scores = [score_case(one, truth, volume.spacing, table).mean_dice for one in (first, second)]
        if scores[0] is not None and scores[1] is not None:
            found.append((scores[0], scores[1]))
    if not found:
        raise CheckpointError(
            "None of the calibration cases holds any structure, so it can't be told what eight-bit integers cost. Name "
            "others with calibration=DIR."
        )
    means = np.mean(found, axis=0)
    return float(means[0]), float(means[1])


def quantised_graph(graph: bytes, tiles: Iterable[np.ndarray]) -> bytes:
    """A graph with quantised layers; ``tiles`` are batches (B, C, *patch) float32 as prediction sees them.

    Raises SettingsError without the extra.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise SettingsError("precision=int8 needs an extra: pip install 'medseg[onnx]'.") from None
    waiting = iter(tiles)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            tile = next(waiting, None)
            return None if tile is None else {INPUT: tile}

    with tempfile.TemporaryDirectory(prefix="medseg-int8-") as name:
        whole, plain, small = (str(Path(name) / f"{part}.onnx") for part in ("whole", "plain", "small"))
        Path(whole).write_bytes(graph)
        quant_pre_process(whole, plain, skip_symbolic_shape=True)  # shapes are known, only the batch is not
        quantize_static(
            plain,
            small,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return Path(small).read_bytes()


def _times_as_fast(before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor], tile: np.ndarray) -> float:
    """In turns, of which the first is not counted."""
    batch = torch.from_numpy(tile)
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(_TURNS + 1):
        for times, network in zip(spent, (before, after), strict=True):
            started = time.perf_counter()
            network(batch)
            if turn:
                times.append(time.perf_counter() - started)
    return median(spent[0]) / median(spent[1])
