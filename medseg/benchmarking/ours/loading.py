"""C7, medseg's side: random patches from prepared cases on disk, augmented, as training takes them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

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
    batches = enumerate(make_loader(patches, 0, recipe.iterations, request["workers"]))

    def take(count: int) -> Tensor | None:
        images = None
        for _ in range(count):
            iteration, (images, labels) = next(batches)
            images, _ = augment_batch(images, labels, recipe.configuration, recipe.training, iteration)
        return images

    def work() -> tuple[None, dict[str, float]]:
        take(request["batches"])
        return None, {}

    take(request["batches"])
    return work


def keep(result: None, folder: Path) -> None:
    """Random patches of two programs can't be compared voxel by voxel."""
