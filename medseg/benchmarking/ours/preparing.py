"""C1, medseg's side: read, crop, normalise, resample, and sample voxels of each structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.cases.labels import LabelTable
from medseg.planning.plan import Plan
from medseg.preprocessing.prepare import prepare_image, prepare_labels
from medseg.preprocessing.store import sample_locations

_Prepared = tuple[np.ndarray, np.ndarray]


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[list[_Prepared], dict[str, float]]]:
    """``folder`` holds the plan; ``cases`` are (image, labels)."""
    plan, table = (
        Plan.load(Path(request["folder"]) / "plan.yaml"),
        LabelTable.load(Path(request["folder"]) / "labels.yaml"),
    )
    _, configuration = plan.configuration(None)
    cases = [Case(Path(image).name, (Path(image),), Path(labels)) for image, labels in request["cases"]]

    def one(case: Case) -> _Prepared:
        volume = read_case_image(case, 1)
        truth = read_case_labels(case, table, volume)
        image, grid = prepare_image(volume, plan, configuration)
        labels = prepare_labels(truth, grid, len(table))
        sample_locations(labels, table, case.name)
        return image, labels

    return lambda: ([one(case) for case in cases], {})


def keep(result: list[_Prepared], folder: Path) -> None:
    """Images and labels of every case."""
    for index, (image, labels) in enumerate(result):
        np.save(folder / f"image_{index}.npy", image)
        np.save(folder / f"labels_{index}.npy", labels)
