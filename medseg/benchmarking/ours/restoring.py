"""C5, medseg's side: logits at the network's spacing become labels on the file's own grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.inference.decision import LargestClass
from medseg.inference.restore import restore_labels
from medseg.inference.slab import Rows
from medseg.preprocessing.grid import Grid


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[np.ndarray, dict[str, float]]]:
    """``logits`` is a file of ``(K, Z, Y, X)`` float16; ``shape`` is the file's."""
    logits = torch.from_numpy(np.load(request["logits"])).to(request["device"])
    a, b, c = request["shape"]
    d, e, f = (int(n) for n in logits.shape[1:])
    grid = Grid(
        file_shape=(a, b, c),
        permutation=(0, 1, 2),
        flips=(False, False, False),
        crop_lower=(0, 0, 0),
        cropped_shape=(a, b, c),
        cropped_spacing=tuple(request["file_spacing"]),
        prepared_shape=(d, e, f),
        prepared_spacing=tuple(request["spacing"]),
    )
    decision = LargestClass(len(logits))
    return lambda: (restore_labels([Rows(0, logits)], grid, decision), {})


def keep(result: np.ndarray, folder: Path) -> None:
    """The labels."""
    np.save(folder / "labels_0.npy", result)
