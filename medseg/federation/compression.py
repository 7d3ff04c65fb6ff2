"""Changes made smaller for the way: half precision, or 8 bits a number with what was lost carried to the next round.

Knows nothing of what is compressed. Error feedback (Seide et al. 2014; Karimireddy et al. 2019): what rounding has
taken from one round's change is added to the next one's, so that nothing is lost for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from medseg.errors import SiteError

Compression = Literal["none", "fp16", "int8"]
Tensors = Mapping[str, np.ndarray]

_SCALE = ".scale"
_LARGEST = {"fp16": float(np.finfo(np.float16).max), "int8": 127.0}


def compress(
    delta: Tensors, kind: Compression, residual: Tensors
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What to send of a change, and what is left over for the next (empty for ``none``).

    ``int8``: every tensor has one scale, its largest number over 127, sent beside it as ``<name>.scale``.
    """
    if kind == "none":
        return {name: np.asarray(d) for name, d in delta.items()}, {}
    wanted = {name: d + residual[name] if name in residual else d for name, d in delta.items()}
    sent: dict[str, np.ndarray] = {}
    for name, values in wanted.items():
        if kind == "fp16":
            sent[name] = np.clip(values, -_LARGEST["fp16"], _LARGEST["fp16"]).astype(np.float16)
            continue
        scale = np.float32(np.max(np.abs(values), initial=0.0) / _LARGEST["int8"])
        sent[name] = np.asarray(np.rint(values / scale) if scale > 0 else np.zeros(values.shape)).astype(np.int8)
        sent[name + _SCALE] = np.asarray(scale, np.float32)
    received = restore(sent, kind, wanted)
    return sent, {name: wanted[name] - received[name] for name in wanted}


def restore(sent: Tensors, kind: Compression, like: Tensors) -> dict[str, np.ndarray]:
    """The change that was sent, in the shapes and types of ``like``.

    Raises SiteError("bad-update") for other names, shapes or types than ``like`` asks for.
    """
    names = {*like, *(name + _SCALE for name in like)} if kind == "int8" else set(like)
    if set(sent) != names:
        raise SiteError("bad-update-names")
    found = {}
    for name, model in like.items():
        wanted = model.dtype if kind == "none" else np.dtype(np.float16 if kind == "fp16" else np.int8)
        if sent[name].shape != model.shape or sent[name].dtype != wanted:
            raise SiteError("bad-update-shape")
        found[name] = sent[name].astype(model.dtype)
        if kind == "int8":
            scale = sent[name + _SCALE]
            if scale.shape != () or scale.dtype != np.float32:
                raise SiteError("bad-update-shape")
            found[name] = np.asarray(found[name] * scale, dtype=model.dtype)
    return found


def size_of(arrays: Tensors) -> int:
    """Bytes of the numbers themselves."""
    return sum(array.nbytes for array in arrays.values())
