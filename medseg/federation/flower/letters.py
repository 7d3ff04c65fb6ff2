"""Bytes in a Flower message and out of it again.

Knows nothing of what the bytes say. They travel as one array of bytes, since Flower sends arrays in pieces of 5 MiB (so
that they pass the gateway) and everything else whole. A message of Flower is smaller than 2 GiB.
"""

from __future__ import annotations

import re

import numpy as np
from flwr.app import Array, ArrayRecord, Error, RecordDict

from medseg.errors import SiteError

_RECORD, _ARRAY = "medseg", "bytes"
_MOST = 2**31 - 2**24
_SLUG = re.compile(r"[a-z][a-z0-9-]{0,63}")
_FLOWER_CODES = {
    1: "app-not-loaded",
    2: "failed",
    3: "message-lost",
    4: "reply-lost",
    5: "unreachable",
    7: "app-damaged",
    8: "crashed",
}
OUR_ERROR = 100
"""Flower's number for an error of ours; its reason is a code, never a text."""


def enclose(data: bytes) -> RecordDict:
    """Put bytes into the content of a message. Raises SiteError where Flower could not carry them."""
    if len(data) > _MOST:
        raise SiteError("message-too-large")
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: Array(np.frombuffer(data, np.uint8))})})


def unfold(content: RecordDict) -> bytes:
    """The bytes of a message. Raises SiteError("bad-letter") where it is not one of ours."""
    try:
        record = content[_RECORD]
        if set(content) != {_RECORD} or not isinstance(record, ArrayRecord) or set(record) != {_ARRAY}:
            raise SiteError("bad-letter")
        array = record[_ARRAY].numpy()
    except (KeyError, ValueError, TypeError):
        raise SiteError("bad-letter") from None
    if array.dtype != np.uint8 or array.ndim != 1:
        raise SiteError("bad-letter")
    return array.tobytes()


def make_error(code: str) -> Error:
    """An error whose only content is a code."""
    return Error(OUR_ERROR, code if _SLUG.fullmatch(code) else "failed")


def read_error(error: Error) -> str:
    """The code of an error, ours or Flower's own; whatever text came with it is dropped."""
    if error.code == OUR_ERROR and error.reason and _SLUG.fullmatch(error.reason):
        return error.reason
    return _FLOWER_CODES.get(error.code, f"flower-error-{int(error.code)}")
