"""C7, medseg's side: random patches from prepared cases on disk, augmented, as training takes them.

Worker processes live for one turn: ones that went on reading ahead would give the next turn what it did not work for,
and take the other side's processor. The clock starts when each of them has given a batch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.benchmarking.ours.recipes import recipe_in
from medseg.cases.case import Case
from medseg.planning.plan import Plan
from medseg.preprocessing.store import prepare_cases
from medseg.training.augment import augment_batch
from medseg.training.patches import PatchDataset, make_loader


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[None, dict[str, float]]]:
    """``folder`` holds the plan; ``cases`` are (image, labels); a turn takes ``batches`` with ``workers``."""
    folder = Path(request["folder"])
    cases = [Case(f"case_{n}", (Path(image),), Path(labels)) for n, (image, labels) in enumerate(request["cases"])]
    recipe = recipe_in(folder, [case.name for case in cases])
    prepared = Path(tempfile.mkdtemp(dir=request["scratch"]))
    plan = Plan.load(folder / "plan.yaml")
    prepare_cases(cases, recipe.labels, plan, recipe.configuration, prepared)
    patches = PatchDataset(prepared, recipe.training_cases, recipe)
    first = max(request["workers"], 1)

    def work() -> tuple[None, dict[str, float]]:
        started = time.perf_counter()
        batches = make_loader(patches, 0, first + request["batches"], request["workers"])
        for iteration, (images, labels) in enumerate(batches):
            augment_batch(images, labels, recipe.configuration, recipe.training, iteration)
            if iteration + 1 == first:
                started = time.perf_counter()
        return None, {"seconds": time.perf_counter() - started}

    work()
    return work


def keep(result: None, folder: Path) -> None:
    """Random patches of two programs can't be compared voxel by voxel."""
