"""C4, G4, medseg's side: a prepared image through a sliding window to labels, the network's own time apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.benchmarking.clocked import Clocked
from medseg.inference.decision import LargestClass
from medseg.inference.restore import restore_labels
from medseg.inference.sliding_window import predict_rows
from medseg.preprocessing.grid import Grid


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, float]]]:
    """``image`` is a file of ``(1, Z, Y, X)``, ``network`` a TorchScript file that gives ``classes``."""
    device = torch.device(request["device"])
    image = np.load(request["image"])
    network = Clocked(torch.jit.load(request["network"], map_location=device).eval(), device)
    a, b, c = (int(n) for n in image.shape[1:])
    patch, classes = tuple(request["patch"]), request["classes"]
    grid = _untouched((a, b, c))

    def work() -> tuple[np.ndarray, dict[str, float]]:
        network.seconds = 0.0
        rows = predict_rows(image, [network], patch, classes, device=device, combine="logits")
        labels = restore_labels(rows, grid, LargestClass(classes))
        return labels, {"network_seconds": network.seconds}

    return work


def _untouched(shape: tuple[int, int, int]) -> Grid:
    return Grid(
        file_shape=shape,
        permutation=(0, 1, 2),
        flips=(False, False, False),
        crop_lower=(0, 0, 0),
        cropped_shape=shape,
        cropped_spacing=(1.0, 1.0, 1.0),
        prepared_shape=shape,
        prepared_spacing=(1.0, 1.0, 1.0),
    )


def keep(result: np.ndarray, folder: Path) -> None:
    """The labels."""
    np.save(folder / "labels_0.npy", result)
