"""C6, medseg's side: every metric of ``medseg evaluate`` for all structures of a case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medseg.benchmarking.material import table_of
from medseg.evaluation.metrics import score_case


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, float]]]:
    """``truth`` and ``prediction`` are files of labels ``(Z, Y, X)``."""
    truth, prediction = np.load(request["truth"]), np.load(request["prediction"])
    table = table_of(request["structures"] + 1)
    z, y, x = request["spacing"]

    def work() -> tuple[np.ndarray, dict[str, float]]:
        case = score_case(prediction, truth, (z, y, x), table)
        return np.array([(s.dice, s.hd95_mm, s.nsd) for s in case.structures], dtype=float), {}

    return work


def keep(result: np.ndarray, folder: Path) -> None:
    """Dice, HD95 and NSD of each structure."""
    np.save(folder / "scores.npy", result)
