"""nnU-Net's checkpoints, read without trusting them: another process opens the pickles, this one sees only tensors.

Knows nothing of plans. What may be in the pickle, and the limits of that process, are in
``medseg.inference.nnunet_reader``; here its answer is checked like any other foreign file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medseg.documents import Record, read_text
from medseg.errors import CheckpointError
from medseg.files import require_free_space

_READER = Path(__file__).with_name("nnunet_reader.py")
_SECONDS = 900


class CheckpointDescription(Record):
    """What a checkpoint says of its training."""

    trainer: str | None = None
    configuration: str | None = None
    epochs: int | None = None
    mirror_axes: tuple[Literal[0, 1, 2], ...] = Field(max_length=3)
    """Axes of the transposed image on which mirroring was allowed; in 2D counted from the second."""


class _Refusal(Record):
    kind: str
    what: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's description, and its tensors under nnU-Net's names, each layer once."""

    path: Path
    description: CheckpointDescription
    weights: Mapping[str, Tensor]


def read_checkpoints(paths: Sequence[Path]) -> list[Checkpoint]:
    """Read ``checkpoint_final.pth`` files, all in one process of their own; nothing in them is ever executed.

    Raises CheckpointError for a file that asks for anything but tensors and numbers (its name is given), that is
    damaged, or that takes too much memory or time to read.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-import-") as name:
        folder = Path(name)
        require_free_space(folder, sum(path.stat().st_size for path in paths), "Importing the checkpoints")
        code = _run(paths, folder)
        return [_answer(path, folder / str(number), code) for number, path in enumerate(paths)]


def _run(paths: Sequence[Path], folder: Path) -> int | None:
    # -P keeps the folder of the script, and thus modules of ours, from being imported there by accident.
    command = [sys.executable, "-P", str(_READER), str(folder), *(str(path.resolve()) for path in paths)]
    seconds = _SECONDS * len(paths)
    try:
        done = subprocess.run(  # noqa: S603 (an argument list, no shell)
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def _answer(path: Path, place: Path, code: int | None) -> Checkpoint:
    """What the process wrote of one checkpoint. Raises CheckpointError for a refusal, or where it wrote nothing."""
    if (place / "refused.json").is_file():
        raise _refused(path, _Refusal.model_validate_json(read_text(place / "refused.json")))
    try:
        text = read_text(place / "checkpoint.json", CheckpointError)
        description = CheckpointDescription.model_validate_json(text)
        return Checkpoint(path, description, load_file(place / "weights.safetensors"))
    except (CheckpointError, ValidationError, SafetensorError, OSError):
        raise CheckpointError(
            f"{path} could not be read: the process that opens it ended with code {code}. It takes too long, is "
            "damaged or was made to do harm; use another copy of it."
        ) from None


def _refused(path: Path, refusal: _Refusal) -> CheckpointError:
    if refusal.kind == "class":
        return CheckpointError(
            f"{path} asks for '{refusal.what}' when it is opened, and medseg reads only tensors and plain numbers from "
            "a checkpoint; nothing was executed. If you trust its source, save it again with nnU-Net without that "
            "object; if you don't, delete it."
        )
    if refusal.kind == "memory":
        return CheckpointError(
            f"{path} asks for far more memory than a checkpoint of its size needs. It is damaged or was made to do "
            "harm; use another copy of it."
        )
    return CheckpointError(f"{path} is damaged or no checkpoint ({refusal.what}). Use another copy of it.")
