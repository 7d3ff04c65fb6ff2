"""Tensors on disk: safetensors with a description, written whole and the same bytes for the same content.

Knows nothing of whose tensors they are. No pickle is ever read. A checksum over the tensors stands in the description,
because safetensors itself does not notice a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medseg.errors import CheckpointError
from medseg.files import written_whole

_KEY = "medseg"
_CHECKSUM = "tensors_sha256"


def save_weights(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the tensors and a JSON description (in the file's metadata under ``medseg``) whole.

    Equal tensors and descriptions give equal bytes. Raises CheckpointError or MedsegError when the disk refuses, and
    ValueError for a description that JSON can't hold.
    """
    # A copy each: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {name: state[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(state)}
    content = {**description, _CHECKSUM: _checksum(tensors)}
    # One metadata key only: the order of several would be random.
    metadata = {_KEY: json.dumps(content, sort_keys=True, allow_nan=False)}
    with written_whole(Path(path)) as temporary:
        rights = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
            temporary.chmod(rights)  # safetensors puts a new file there, which only its owner may read
        except SafetensorError as error:
            raise CheckpointError(f"Could not write {path}: {error}. Nothing was replaced.") from None


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and description. Raises CheckpointError for a missing, foreign or damaged file."""
    if not Path(path).is_file():
        raise CheckpointError(f"There is no file {path}. Train first, or name another model with model=PATH.")
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            metadata = stream.metadata() or {}
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}). Use another copy of it.") from None
    try:
        description = json.loads(metadata[_KEY])
        expected = description.pop(_CHECKSUM)
    except (KeyError, ValueError, AttributeError, TypeError):
        raise CheckpointError(f"{path} was not written by medseg: it lacks the description.") from None
    if _checksum(state) != expected:
        raise CheckpointError(f"{path} is damaged: its tensors are not those that were written. Use another copy.")
    return state, description


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
