"""The one door through which a site's answers leave: what is not on the list of its action does not pass.

Knows nothing of how an answer came about. Fields are whitelisted by action and by kind; numbers that describe patients
are rounded; of an error only its code leaves. The idea is that of NVFlare's filters at the site.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from medseg.errors import SiteError
from medseg.federation.messages import JSON, Arrays, Reply, Request
from medseg.federation.policy import SitePolicy

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(r"[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Answer:
    """What a site's action found, before it has passed the door."""

    header: Mapping[str, JSON] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def _count(value: JSON, _: SitePolicy) -> JSON:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SiteError("not-released")
    return value


def _some(value: JSON, policy: SitePolicy) -> JSON:
    return None if value is None else _count(value, policy)


def _metric(value: JSON, policy: SitePolicy) -> JSON:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SiteError("not-released")
    return round(float(value), policy.decimals)


def _metrics(value: JSON, policy: SitePolicy) -> JSON:
    if value is not None and not isinstance(value, list):
        raise SiteError("not-released")
    return None if value is None else [_metric(number, policy) for number in value]


def _sha256(value: JSON, _: SitePolicy) -> JSON:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise SiteError("not-released")
    return value


def _account(value: JSON, _: SitePolicy) -> JSON:
    """What a private round has cost: numbers of the mechanism, none of a patient."""
    from medseg.federation.privacy.certificate import SiteAccount

    try:
        return None if value is None else SiteAccount.model_validate(value).model_dump(mode="json")
    except ValueError:
        raise SiteError("not-released") from None


def _code(value: JSON, _: SitePolicy) -> JSON:
    if not isinstance(value, str) or not _CODE.fullmatch(value):
        raise SiteError("not-released")
    return value


def _codes(value: JSON, policy: SitePolicy) -> JSON:
    """Codes and how often each was met; None where that is too seldom to be told."""
    if not isinstance(value, dict):
        raise SiteError("not-released")
    return {str(_code(code, policy)): None if count is None else _count(count, policy) for code, count in value.items()}


def _flag(value: JSON, _: SitePolicy) -> JSON:
    if not isinstance(value, bool):
        raise SiteError("not-released")
    return value


Field = Callable[[JSON, SitePolicy], JSON]
"""Gives what may leave of a field's value; raises SiteError where it is not of the field's kind."""

HEADERS: dict[str, dict[str, Field]] = {
    "check": {"cases": _count, "passes": _flag, "codes": _codes},
    "fingerprint": {"cases": _count, "device": _code, "memory_bytes": _some, "flops_per_second": _some},
    "prepare": {"cases": _count, "patients": _count, "held_out": _count, "plan_sha256": _sha256},
    "train": {
        "cases": _count,
        "loss": _metric,
        "dice": _metric,
        "plan_sha256": _sha256,
        "weights_sha256": _sha256,
        "privacy": _account,
    },
    "evaluate": {
        "cases": _count,
        "dice": _metric,
        "dice_low": _metric,
        "dice_high": _metric,
        "hd95_mm": _metric,
        "structures": _metrics,
    },
}
"""Of every action the fields of its header that may leave."""

ARRAYS: dict[str, re.Pattern[str]] = {
    "fingerprint": re.compile(r"relative_volume|(spacing|size|extent)\.[zyx]|(share|intensity)\.\d+"),
    "train": re.compile(r"(delta|control|masked)\..+"),
}
"""Of every action the names of its arrays that may leave; none where it is not listed."""


def release(site: str, policy: SitePolicy, request: Request, answer: Answer) -> Reply:
    """The Reply that leaves: known fields only, rounded, metrics that the policy allows, arrays finite.

    Raises SiteError("not-released") for anything that the action's list does not have.
    """
    fields, names = HEADERS.get(request.action, {}), ARRAYS.get(request.action)
    if set(answer.header) - set(fields):
        raise SiteError("not-released")
    if any(names is None or not names.fullmatch(name) for name in answer.arrays):
        raise SiteError("not-released")
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in answer.arrays.values()):
        raise SiteError("not-finite")
    withheld = {n for n, kind in fields.items() if kind in (_metric, _metrics) and n not in policy.metrics}
    header = {n: None if n in withheld else fields[n](value, policy) for n, value in answer.header.items()}
    return Reply(site, request.action, request.round, header, dict(answer.arrays))


def release_error(site: str, request: Request, error: Exception) -> Reply:
    """The Reply to what went wrong: a code, and nothing of the error's text."""
    return Reply(site, request.action, request.round, error=code_of(error))


def code_of(error: Exception) -> str:
    """The code of an error: a SiteError is its own, of any other only its class is told."""
    if isinstance(error, SiteError):
        return str(error) if _CODE.fullmatch(str(error)) else "site-error"
    if isinstance(error, MemoryError):
        return "out-of-memory"
    known = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
    return known if known in _TOLD else "failed"


_TOLD = {"dataset-error", "image-file-error", "geometry-error", "plan-error", "settings-error", "checkpoint-error"}
