"""An nnU-Net checkpoint, read without trusting it: another process opens the pickle, this one sees only its tensors.

Knows nothing of plans. What may be in the pickle, and the limits of that process, are in
``medseg.inference.nnunet_reader``; here its answer is checked like any other foreign file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
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

    trainer: str | None
    configuration: str | None
    epochs: int | None
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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read ``checkpoint_final.pth`` or the like in a process of its own; nothing in it is ever executed.

    Raises CheckpointError for a file that asks for anything but tensors and numbers (its name is given), that is
    damaged, or that takes too much memory or time to read.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    with tempfile.TemporaryDirectory(prefix="medseg-import-") as name:
        folder = Path(name)
        require_free_space(folder, path.stat().st_size, f"Importing {path}")
        code = _run(path, folder)
        if (folder / "refused.json").is_file():
            raise _refused(path, _Refusal.model_validate_json(read_text(folder / "refused.json")))
        try:
            text = read_text(folder / "checkpoint.json", CheckpointError)
            description = CheckpointDescription.model_validate_json(text)
            weights = load_file(folder / "weights.safetensors")
        except (CheckpointError, ValidationError, SafetensorError, OSError):
            raise CheckpointError(
                f"{path} could not be read within the memory and time that a file of its size may take (the reading "
                f"process ended with code {code}). It is damaged or was made to do harm; use another copy."
            ) from None
        return Checkpoint(path, description, weights)


def _run(path: Path, folder: Path) -> int | None:
    # -P keeps the folder of the script, and thus modules of ours, from being imported there by accident.
    command = [sys.executable, "-P", str(_READER), str(path.resolve()), str(folder)]
    try:
        done = subprocess.run(  # noqa: S603 (an argument list, no shell)
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def _refused(path: Path, refusal: _Refusal) -> CheckpointError:
    if refusal.kind == "class":
        return CheckpointError(
            f"{path} asks for '{refusal.what}' when it is opened, and medseg reads only tensors and plain numbers from "
            "a checkpoint; nothing was executed. If you trust its source, save it again with nnU-Net without that "
            "object; if you don't, delete it."
        )
    if refusal.kind == "foreign":
        return CheckpointError(f"{path} is no checkpoint of nnU-Net: {refusal.what}.")
    return CheckpointError(f"{path} is damaged or no checkpoint ({refusal.what}). Use another copy of it.")
