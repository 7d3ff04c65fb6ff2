"""The state of a training on disk: safetensors plus JSON, whole or not at all, the last two kept.

The tensors are written first under a name of their own, then the JSON that names them: a kill at any moment leaves the
older pair intact. Nothing in a checkpoint depends on the clock, so equal trainings have equal bytes.
Everything random follows from (seed, iteration), so there is no random state to keep. Knows nothing of how the state
came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medseg.documents import Document
from medseg.errors import CheckpointError, MedsegError
from medseg.networks.weights import load_weights, save_weights
from medseg.training.course import Course
from medseg.training.recipe import Recipe

_KEPT = 2


class CheckpointRecord(Document):
    """The JSON half of a checkpoint."""

    kind: ClassVar[str] = "checkpoint"
    error: ClassVar[type[MedsegError]] = CheckpointError

    course: Course
    recipe: str
    """``Recipe.hash_at`` its iteration."""
    tensors: str
    """File name of the tensors, in the same folder."""
    optimizer_groups: list[dict[str, Any]]
    gradient_scaler: dict[str, int | float] | None = None
    """Of float16, which loses small gradients without it."""


def save_checkpoint(
    folder: Path,
    course: Course,
    recipe: Recipe,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradient_scaler: dict[str, int | float] | None = None,
) -> Path:
    """Write the pair for the course's iteration, then forget all but the last two. Returns the JSON's path."""
    name = f"checkpoint_{course.iteration:07d}"
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()} | optimizer_tensors(optimizer)
    file = folder / f"{name}.safetensors"
    save_weights(file, {key: value.detach().cpu() for key, value in tensors.items()}, {"iteration": course.iteration})
    groups = optimizer.state_dict()["param_groups"]
    record = CheckpointRecord(
        course=course,
        recipe=recipe.hash_at(course.iteration),
        tensors=file.name,
        optimizer_groups=[{k: v for k, v in group.items() if v is not None} for group in groups],
        gradient_scaler=gradient_scaler,
    )
    record.save(folder / f"{name}.json")
    for old in checkpoints(folder)[:-_KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return folder / f"{name}.json"


def checkpoints(folder: Path) -> list[Path]:
    """The JSON files of all checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint_*.json"))


def forget_leftovers(folder: Path) -> None:
    """Delete what a killed process left half done: temporary files, and tensors whose JSON was never written."""
    whole = {path.with_suffix(".safetensors") for path in checkpoints(folder)}
    for path in (*folder.glob(".partial-*"), *folder.glob("checkpoint_*.safetensors")):
        if path not in whole:
            path.unlink(missing_ok=True)


def load_newest(folder: Path, recipe: Recipe) -> tuple[CheckpointRecord, dict[str, Tensor]] | None:
    """The newest checkpoint that is undamaged, or None where there is none.

    Raises CheckpointError when every one is damaged, or the newest belongs to another Recipe.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            record = CheckpointRecord.load(path)
            tensors, _ = load_weights(folder / Path(record.tensors).name)
        except CheckpointError:
            continue
        if record.recipe != recipe.hash_at(record.course.iteration):
            raise CheckpointError(
                f"{path} belongs to another training (its recipe differs). Use restart=true to train anew."
            )
        return record, tensors
    if found:
        raise CheckpointError(f"All {len(found)} checkpoints in {folder} are damaged. Use restart=true to train anew.")
    return None


def restore(
    record: CheckpointRecord, tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put a checkpoint's tensors back into the network and the optimizer."""
    network.load_state_dict(
        {key.removeprefix("network."): t for key, t in tensors.items() if key.startswith("network.")}
    )
    restore_optimizer(tensors, optimizer, record.optimizer_groups)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that an optimizer remembers, as ``optimizer.<parameter>.<name>``."""
    return {
        f"optimizer.{index}.{key}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def restore_optimizer(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, groups: Sequence[dict[str, Any]] = ()
) -> None:
    """Put such tensors back, and the groups' numbers where they are given; others stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    fresh = optimizer.state_dict()["param_groups"]
    merged = [old | new for old, new in zip(fresh, groups or fresh, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})
