"""C2, C3, medseg's side: from image files to label files with an imported model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.cases.case import Case
from medseg.images.formats import write_labels
from medseg.inference.bundle import open_model
from medseg.inference.predict import Options, predict_case
from medseg.progress import Silent


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[list[np.ndarray], dict[str, float]]]:
    """``model`` is a bundle, ``images`` files of one channel, ``options`` those of ``medseg predict``."""
    device = torch.device(request["device"])
    networks = open_model(Path(request["model"])).load(device=device)
    options = Options(device, **request["options"])
    silent, output = Silent(), Path(request["output"])

    def one(image: str) -> np.ndarray:
        case = Case(Path(image).name, (Path(image),))
        found = predict_case(case, networks, options, silent)
        labels = networks.labels.to_values(found.indices)
        write_labels(output / case.name, labels, found.image)
        return labels

    return lambda: ([one(image) for image in request["images"]], {})


def keep(result: list[np.ndarray], folder: Path) -> None:
    """The labels of every image."""
    for index, labels in enumerate(result):
        np.save(folder / f"labels_{index}.npy", labels)
