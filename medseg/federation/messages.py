"""What a coordinator and a site say to each other: a Request, a Reply, and the Transport that carries them.

Knows neither networks nor hospitals, and nothing of Flower. On the wire a message is a magic word with the version, a
JSON header and the arrays as safetensors: no pickle. Whatever arrives is validated before anything is made of it; what
is not a message raises SiteError with a code.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from medseg.errors import SiteError

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Arrays = Mapping[str, np.ndarray]

_MAGIC = b"medseg-federation-1\n"
"""The last number is the version of the protocol: another one is refused, not guessed at."""
_MOST_HEADER = 16_000_000
_MOST_DEPTH = 12
_DTYPES = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_SLUG = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Request:
    """What the coordinator asks of one site."""

    action: str
    """What to do, such as ``train``; a site knows its actions by name and answers no other."""
    run: str
    """Which federated run, a slug."""
    round: int
    plan_sha256: str
    """Hash of the Plan that all sites share; empty before there is one."""
    header: Mapping[str, JSON] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_slug(self.action, "action")
        _require_slug(self.run, "run")
        _require_round(self.round)
        if self.plan_sha256 and not _SHA256.fullmatch(self.plan_sha256):
            raise SiteError("bad-message-plan")
        _require_header(self.header)
        _require_arrays(self.arrays)

    def to_bytes(self) -> bytes:
        """The message as it travels; equal messages have equal bytes."""
        own = {"action": self.action, "run": self.run, "round": self.round, "plan_sha256": self.plan_sha256}
        return _pack("request", own, self.header, self.arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        """Read what arrived. Raises SiteError with a code where it is no valid Request."""
        own, header, arrays = _unpack("request", data, {"action", "run", "round", "plan_sha256"})
        return cls(**own, header=header, arrays=arrays)


@dataclass(frozen=True)
class Reply:
    """What one site answers."""

    site: str
    """The site's name, as the coordinator knows it."""
    action: str
    round: int
    header: Mapping[str, JSON] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    error: str | None = None
    """A code, never text: what went wrong may hold a patient's name."""

    def __post_init__(self) -> None:
        _require_slug(self.site, "site")
        _require_slug(self.action, "action")
        _require_round(self.round)
        if self.error is not None:
            _require_slug(self.error, "error")
        _require_header(self.header)
        _require_arrays(self.arrays)

    def to_bytes(self) -> bytes:
        """The message as it travels; equal messages have equal bytes."""
        own = {"site": self.site, "action": self.action, "round": self.round, "error": self.error}
        return _pack("reply", own, self.header, self.arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Reply:
        """Read what arrived. Raises SiteError with a code where it is no valid Reply."""
        own, header, arrays = _unpack("reply", data, {"site", "action", "round", "error"})
        return cls(**own, header=header, arrays=arrays)


class Transport(Protocol):
    """How Requests reach sites: in this process, or over a network."""

    def sites(self) -> tuple[str, ...]:
        """Names of the sites that can be reached now."""
        ...

    def exchange(
        self,
        requests: Mapping[str, Request],
        deadline_s: float,
        enough: Callable[[Mapping[str, Reply]], bool] | None = None,
    ) -> dict[str, Reply]:
        """Ask the named sites and wait for their Replies, never past the deadline; missing ones are simply absent.

        ``enough`` is asked again and again with the Replies so far; where it says true, nothing more is waited for.
        """
        ...


def hash_arrays(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _pack(kind: str, own: Mapping[str, JSON], header: Mapping[str, JSON], arrays: Arrays) -> bytes:
    content = {"kind": kind, **own, "header": dict(header)}
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    # asarray keeps arrays of no axis as they are, where ascontiguousarray would give them one.
    tensors = save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})
    return _MAGIC + len(text).to_bytes(8, "little") + text + tensors


def _unpack(kind: str, data: bytes, keys: set[str]) -> tuple[dict[str, Any], dict[str, JSON], dict[str, np.ndarray]]:
    if not data.startswith(_MAGIC):
        raise SiteError("bad-message-version")
    start = len(_MAGIC) + 8
    size = int.from_bytes(data[len(_MAGIC) : start], "little")
    if len(data) < start or size > _MOST_HEADER or start + size > len(data):
        raise SiteError("bad-message-length")
    try:
        content = json.loads(data[start : start + size], parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise SiteError("bad-message-header") from None
    if not isinstance(content, dict) or content.pop("kind", None) != kind or set(content) != {*keys, "header"}:
        raise SiteError("bad-message-fields")
    try:
        arrays = load(data[start + size :])
    except (SafetensorError, ValueError, KeyError, TypeError):  # KeyError: a type that numpy doesn't have
        raise SiteError("bad-message-arrays") from None
    return {key: content[key] for key in keys}, content["header"], arrays


def _refuse(constant: str) -> JSON:
    raise ValueError(constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _require_slug(text: object, what: str) -> None:
    if not isinstance(text, str) or not _SLUG.fullmatch(text):
        raise SiteError(f"bad-message-{what}")


def _require_round(number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**31:
        raise SiteError("bad-message-round")


def _require_header(header: object) -> None:
    if not isinstance(header, Mapping) or not _is_json(dict(header), _MOST_DEPTH):
        raise SiteError("bad-message-header")


def _is_json(value: object, depth: int) -> bool:
    if value is None or isinstance(value, bool | int | str):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if depth == 0:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(inner, depth - 1) for key, inner in value.items())
    return isinstance(value, list | tuple) and all(_is_json(inner, depth - 1) for inner in value)


def _require_arrays(arrays: object) -> None:
    if not isinstance(arrays, Mapping):
        raise SiteError("bad-message-arrays")
    for name, array in arrays.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SiteError("bad-message-arrays")
        if not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES:
            raise SiteError("bad-message-arrays")
