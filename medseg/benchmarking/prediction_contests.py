"""C2 to C5: from an image to labels, whole and stage by stage, against nnU-Net and MONAI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from medseg.arrays import Triple
from medseg.benchmarking.contest import Found, Gate, Measured, ours, peer
from medseg.benchmarking.material import (
    Shape,
    draw_case,
    draw_labels,
    table_of,
    write_model,
    write_network,
    write_plans,
    write_raw,
)
from medseg.benchmarking.result import Row, timed_row
from medseg.benchmarking.setup import Setup
from medseg.cases.case import Case
from medseg.cases.labels import LabelTable
from medseg.errors import MedsegError
from medseg.evaluation.metrics import score_case
from medseg.images.formats import read_labels
from medseg.inference.tiles import gaussian

_HIPPOCAMPUS = Shape((40, 56, 40), (8, 16, 32, 64))
_SMALL = Shape((16, 16, 16), (4, 8))
_MOST_DIFFERENT = 1e-5
"""Share of voxels; nnU-Net's own labels differ by as much from one processor to another."""
_MOST_LOST = 0.002
"""Dice."""


def same_settings(setup: Setup) -> list[Row]:
    """C2: an nnU-Net model, imported, with nnU-Net's own step, mirroring and arithmetic."""
    folder, cases = _predicted_cases(setup, "C2", setup.of(1, 4))
    options = {"combine": "nnunet", "mirror": True, "step": 0.5}
    mine, other, said = _predict(setup, folder, cases, options, _same_labels)
    work = f"predict {len(cases)} cases as nnU-Net does, per case"
    name = "nnU-Net predictor"
    return [timed_row("C2", work, mine, other, name, per=len(cases), goal=1.15, memory_goal=0.7, parity=said)]


def default_settings(setup: Setup) -> list[Row]:
    """C3: the same model, each program as it comes; what the difference costs in Dice."""
    folder, cases = _predicted_cases(setup, "C3", setup.of(1, 4))
    lost: dict[str, float] = {}

    def gate(first: Path, second: Path | None) -> str:
        truth = [read_labels(case.labels).array for case in cases if case.labels is not None]
        if second is None or setup.model is None:
            return "Dice is compared only with a trained model and a peer"
        means = [_mean_dice(place, truth, table_of(_HIPPOCAMPUS.classes)) for place in (first, second)]
        lost["dice"], lost["their_dice"] = means
        return f"Dice {means[0]:.4f}, nnU-Net {means[1]:.4f} (loss {means[1] - means[0]:+.4f}, at most {_MOST_LOST})"

    mine, other, said = _predict(setup, folder, cases, {}, gate)
    work = f"predict {len(cases)} cases, defaults against defaults, per case"
    row = timed_row("C3", work, mine, other, "nnU-Net predictor", per=len(cases), goal=8, parity=said, facts=lost)
    if lost and lost["their_dice"] - lost["dice"] > _MOST_LOST:
        row = row.model_copy(update={"reached": False})
    return [row]


def _predicted_cases(setup: Setup, name: str, count: int) -> tuple[Path, Sequence[Case]]:
    """A folder with the peer's model and medseg's bundle of it, and the cases to predict."""
    from medseg.inference.nnunet_model import import_nnunet

    folder = setup.folder(name)
    model = setup.model or write_model(folder / "random_model", setup.of(_SMALL, _HIPPOCAMPUS))
    import_nnunet([model], folder / "bundle")
    (folder / "model").symlink_to(model.resolve())
    if setup.model is not None and len(setup.held_out) >= count:
        return folder, setup.held_out[:count]
    drawn = [draw_case((35, 51, 36), (1, 1, 1), 2, seed) for seed in range(count)]
    return folder, write_raw(folder / "raw", drawn, _HIPPOCAMPUS)


def _predict(
    setup: Setup,
    folder: Path,
    cases: Sequence[Case],
    options: Mapping[str, Any],
    gate: Gate,
) -> Found:
    request = {"images": [str(case.images[0]) for case in cases], "device": setup.device}
    mine = request | {"model": str(folder / "bundle"), "options": dict(options), "output": str(folder / "ours")}
    theirs = request | {"nnunet_model": str(folder / "model"), "output": str(folder / "theirs")}
    theirs |= {"mirror": True, "folds": [0]}
    python = setup.python("nnunetv2")
    other = peer("nnU-Net", "nnunet_predicting", theirs, python) if python else None
    return setup.compete(folder.name, ours("predicting", mine), other, gate)


def _mean_dice(place: Path, truth: Sequence[np.ndarray], table: LabelTable) -> float:
    """Over cases and structures."""
    found = []
    for index, labels in enumerate(truth):
        case = score_case(np.load(place / f"labels_{index}.npy"), labels, (1.0, 1.0, 1.0), table)
        found += [structure.dice for structure in case.structures if structure.dice is not None]
    return float(np.mean(found))


def _same_labels(first: Path, second: Path | None, most: float = _MOST_DIFFERENT) -> str:
    """Labels equal but for a share ``most`` of voxels. Raises MedsegError where they are not."""
    if second is None:
        return ""
    different = voxels = 0
    for file in sorted(first.glob("labels_*.npy")):
        mine, other = np.load(file), np.load(second / file.name)
        different += int((mine != other).sum()) if mine.shape == other.shape else mine.size
        voxels += mine.size
    if different > most * voxels:
        raise MedsegError(f"{different} of {voxels} voxels differ from the peer's labels.")
    return f"{different} of {voxels} voxels differ"


def sliding_window(setup: Setup) -> list[Row]:
    """C4: what the window costs beyond the network, few classes and many."""
    size = setup.of((24, 32, 24), (96, 128, 128))
    patch, features = setup.of((16, 16, 16), (64, 64, 64)), setup.of((4, 8), (16, 32, 64))
    return [
        sliding_window_on(setup, "C4", Shape(patch, features, classes=classes), size)
        for classes in setup.of((3,), (14, 118))
    ]


def sliding_window_on(setup: Setup, identity: str, shape: Shape, size: Triple) -> Row:
    """A row of a window over an image of this size."""
    folder = setup.folder(f"{identity}_{shape.classes}")
    image, _ = draw_case(size, (1, 1, 1), 5)
    np.save(folder / "image.npy", (image.array - image.array.mean()) / image.array.std())
    write_network(folder / "network.ts", shape)
    weights = np.multiply.outer(np.multiply.outer(*(gaussian(n) for n in shape.patch[:2])), gaussian(shape.patch[2]))
    np.save(folder / "weights.npy", weights.astype(np.float32))
    request = {
        "image": str(folder / "image.npy"),
        "network": str(folder / "network.ts"),
        "weights": str(folder / "weights.npy"),
        "patch": list(shape.patch),
        "classes": shape.classes,
        "device": setup.device,
    }
    python = setup.python("monai")
    theirs = peer("MONAI", "monai_tiling", request, python) if python else None

    def gate(first: Path, second: Path | None) -> str:
        # The two add tiles up in another order, so voxels between two equally good classes may fall either way.
        return _same_labels(first, second, 1e-3)

    title = f"{identity}, {shape.classes} classes"
    mine, other, said = setup.compete(title, ours("tiling", request), theirs, gate)
    work = f"overhead of tiles over {'x'.join(map(str, size))}, {shape.classes} classes"
    return overhead_row(identity, work, mine, other, said)


def overhead_row(identity: str, work: str, mine: Measured, other: Measured | None, said: str) -> Row:
    """Percent of the time that was not spent in the network."""

    def percent(found: Measured) -> float:
        return 100 * (1 - found.facts["network_seconds"] / found.median)

    row = timed_row(identity, work, mine, other, "MONAI sliding_window_inference", parity=said)
    share = mine.memory / other.memory if other else None
    facts = row.facts | {"seconds": mine.median} | ({"their_seconds": other.median} if other else {})
    return row.model_copy(
        update={
            "unit": "%",
            "ours": percent(mine),
            "theirs": percent(other) if other else None,
            "goal": "at most 5 % (and half of the memory)",
            "reached": percent(mine) <= 5 and (share is None or share <= 0.5),
            "facts": facts,
        }
    )


def export(setup: Setup) -> list[Row]:
    """C5: logits to labels on the file's grid, few classes and many."""
    small, large = setup.of(((12, 16, 16), (18, 24, 24)), ((64, 96, 96), (96, 144, 144)))
    return [export_row(setup, "C5", classes, small, large, 5) for classes in setup.of((3,), (3, 14, 118))]


def export_row(
    setup: Setup, identity: str, classes: int, small: Triple, large: Triple, goal: float | None = None
) -> Row:
    """A row of an export from one grid to another."""
    folder = setup.folder(f"{identity}_{classes}")
    spacing = tuple(n / m for n, m in zip(large, small, strict=True))
    write_plans(folder, Shape((16, 16, 16), (4, 8), spacing=(spacing[0], spacing[1], spacing[2]), classes=classes))
    np.save(folder / "logits.npy", draw_logits(small, classes))
    request = {
        "folder": str(folder),
        "logits": str(folder / "logits.npy"),
        "shape": list(large),
        "spacing": list(spacing),
        "file_spacing": [1.0, 1.0, 1.0],
        "device": setup.device,
    }
    python = setup.python("nnunetv2")
    theirs = peer("nnU-Net", "nnunet_restoring", request, python) if python else None

    def gate(first: Path, second: Path | None) -> str:
        return _same_labels(first, second, 0)

    mine, other, said = setup.compete(f"{identity}, {classes} classes", ours("restoring", request), theirs, gate)
    work = f"{classes} classes, {'x'.join(map(str, small))} to {'x'.join(map(str, large))}"
    return timed_row(identity, work, mine, other, "nnU-Net export", goal=goal, parity=said)


def draw_logits(shape: Triple, classes: int) -> np.ndarray:
    """What a trained network gives: high inside each structure, uncertain for a voxel or two at borders; float16."""
    labels = draw_labels(shape, classes - 1, 3, (0.04, 0.12))
    random = np.random.default_rng(4)
    logits = np.empty((classes, *shape), np.float16)
    for index in range(classes):
        inside = gaussian_filter((labels == index).astype(np.float32), 0.7)
        logits[index] = 12 * inside - 6 + 0.3 * random.standard_normal(shape).astype(np.float32)
    return logits
