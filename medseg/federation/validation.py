"""Whether a site's reply can be used: the right round and plan, the right tensors, finite, and not absurdly long.

Knows nothing of how replies arrive. One that can't be used costs its site, not the round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medseg.errors import SiteError
from medseg.federation.aggregation import norm_of
from medseg.federation.compression import restore
from medseg.federation.messages import Reply, Request, hash_arrays
from medseg.federation.privacy.certificate import SiteAccount
from medseg.federation.run_settings import RunSettings

_FEWEST_NORMS = 3
"""A median of fewer says nothing."""


def require_answer(site: str, request: Request, reply: Reply, settings: RunSettings) -> None:
    """Raise SiteError with a code where a reply is not this site's, on this Request, Plan and weights."""
    if reply.error is not None:
        raise SiteError(reply.error)
    if (reply.site, reply.action, reply.round) != (site, request.action, request.round):
        raise SiteError("other-round")
    if reply.header.get("plan_sha256") != request.plan_sha256:
        raise SiteError("other-plan")
    if reply.header.get("weights_sha256") != hash_arrays(request.arrays):
        raise SiteError("other-weights")
    _require_account(site, reply, settings)


def read_change(
    site: str, request: Request, reply: Reply, settings: RunSettings, weights: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(change, change of SCAFFOLD's control) of a reply to a Request. Raises SiteError with a code."""
    require_answer(site, request, reply, settings)
    prefixes = ("delta.", "control.") if settings.control else ("delta.",)
    if not all(name.startswith(prefixes) for name in reply.arrays):
        raise SiteError("bad-update-names")
    delta = restore(_part(reply, "delta."), settings.compression, weights)
    control = restore(_part(reply, "control."), "none", weights) if settings.control else {}
    for array in (*delta.values(), *control.values()):
        if not np.isfinite(array).all():
            raise SiteError("not-finite")
    return delta, control


def read_account(site: str, reply: Reply) -> SiteAccount | None:
    """What the site says its patients have spent; None where nothing is counted. Raises SiteError("bad-account")."""
    value = reply.header.get("privacy")
    if value is None:
        return None
    try:
        account = SiteAccount.model_validate(value)
    except ValueError:
        raise SiteError("bad-account") from None
    if account.site != site:
        raise SiteError("bad-account")
    return account


def _require_account(site: str, reply: Reply, settings: RunSettings) -> None:
    """Raise SiteError("bad-account") where patients are protected and the site does not say at what cost."""
    account = read_account(site, reply)
    if not settings.privacy.per_patient:
        return
    if account is None or account.mechanism.noise_multiplier != settings.privacy.noise_multiplier:
        raise SiteError("bad-account")


def too_long(norms: Mapping[str, float], earlier: Sequence[float], factor: float) -> set[str]:
    """The sites whose change is ``factor`` times longer than the median of earlier ones, or of this round's.

    Nobody where there are fewer than three to compare with.
    """
    reference = list(earlier) if len(earlier) >= _FEWEST_NORMS else list(norms.values())
    if len(reference) < _FEWEST_NORMS:
        return set()
    limit = factor * float(np.median(reference))
    return {site for site, norm in norms.items() if norm > limit}


def norms_of(deltas: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Length of every site's change."""
    return {site: norm_of(delta) for site, delta in deltas.items()}


def _part(reply: Reply, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): a for name, a in reply.arrays.items() if name.startswith(prefix)}
