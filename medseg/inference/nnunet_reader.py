"""The process in which nnU-Net's checkpoints are read: pickles in, tensors as safetensors and a few words as JSON out.

Run as ``python nnunet_reader.py FOLDER CHECKPOINT ...`` by ``medseg.inference.nnunet_checkpoint``, never imported; it
imports nothing of medseg. torch reads with ``weights_only``, so that no function named in the pickle is called, and
numpy's plain numbers, which nnU-Net logs, are all that is allowed beyond torch's own list. The process may not use much
more memory than the file's size, nor run long, nor write large files.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SECONDS = 600
_SPARE_BYTES = 2 << 30
_SHOWN = 200


def main(folder: Path, checkpoints: Sequence[Path]) -> None:
    """For each checkpoint write ``weights.safetensors`` and ``checkpoint.json`` into ``folder/0``, ``folder/1``, ...

    Where one is refused, ``refused.json`` stands there instead with the reason, and the later ones are not opened.
    """
    import torch

    torch.set_num_threads(1)
    _limit(max(path.stat().st_size for path in checkpoints), len(checkpoints))
    for number, path in enumerate(checkpoints):
        place = folder / str(number)
        place.mkdir()
        try:
            _extract(path, place)
        except Exception as error:
            # Whatever a hostile or damaged file leads to is said in words; the words themselves may be hostile as well.
            (place / "refused.json").write_text(json.dumps(_refusal(error)))
            return


def _extract(path: Path, place: Path) -> None:
    from safetensors.torch import save_file

    described, weights = _described(_load(path))
    save_file(weights, place / "weights.safetensors")
    (place / "checkpoint.json").write_text(json.dumps(described))


def _limit(size: int, count: int) -> None:
    """Bound memory (over what importing torch has taken), processor time and the size of any file written."""
    import resource

    # Where the system does not tell what is taken (no Linux), memory is left to it.
    pages = Path("/proc/self/statm")
    taken = int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else 1 << 60
    for what, limit in (
        (resource.RLIMIT_AS, taken + 4 * size + _SPARE_BYTES),
        (resource.RLIMIT_CPU, _SECONDS * count),
        (resource.RLIMIT_FSIZE, size + (64 << 20)),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (allowed, allowed))


def _load(checkpoint: Path) -> Any:
    import numpy as np
    import torch
    from numpy._core.multiarray import scalar

    kinds = ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")
    plain: list[Any] = [np.dtype, *(getattr(np.dtypes, f"{kind}DType") for kind in kinds)]
    # numpy 1 wrote the same function under another name.
    numbers: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar")]
    # Mapped into memory only what is asked for is read: the optimizer's state, twice the weights, is not.
    mapped = zipfile.is_zipfile(checkpoint)
    with torch.serialization.safe_globals([*plain, *numbers]):
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)


def _described(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the checkpoint says of its training, and every layer once, under nnU-Net's own names."""
    import torch

    found = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise ValueError("it holds no network_weights")
    weights: dict[str, Any] = {}
    for key, value in found.items():
        # Left behind by training on several GPUs and by compiling.
        name = str(key).removeprefix("module.").removeprefix("_orig_mod.")
        # Each convolution stands in its block's list as well, and the whole encoder in the decoder.
        double = ".all_modules." in name or name.startswith("decoder.encoder.")
        if isinstance(value, torch.Tensor) and not double:
            weights[name] = value.detach().clone(memory_format=torch.contiguous_format)
    arguments = content.get("init_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    axes = content.get("inference_allowed_mirroring_axes")
    epoch = content.get("current_epoch")
    return {
        "trainer": _text(content.get("trainer_name")),
        "configuration": _text(arguments.get("configuration")),
        "epochs": epoch if isinstance(epoch, int) else None,
        "mirror_axes": [int(axis) for axis in axes] if isinstance(axes, list | tuple) else [],
    }, weights


def _text(value: Any) -> str | None:
    return value[:_SHOWN] if isinstance(value, str) else None


def _refusal(error: Exception) -> dict[str, str]:
    """The name that the pickle asked for, where that is why it was refused; else what went wrong."""
    text = str(error)
    asked = re.search(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)", text)
    if asked:
        return {"kind": "class", "what": asked[1][:_SHOWN]}
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return {"kind": "memory", "what": ""}
    shown = "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))
    return {"kind": "unreadable", "what": f"{type(error).__name__}: {shown[:_SHOWN]}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
