"""Whether a site's dataset has the labels, targets and channels that the sites have agreed on.

Knows nothing of messages. The sentences name what the site has, so they stay at the site; only their code may leave.
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.cases.dataset import Dataset
from medseg.errors import Complaint, DatasetError, SiteError
from medseg.federation.messages import JSON


def disagreements(
    dataset: Dataset, labels: JSON = None, targets: JSON = None, channels: JSON = None
) -> list[Complaint]:
    """What differs from the agreed names, each a list in order; nothing is said of what is None."""
    remedy = "Name them so in dataset.yaml or in labels.yaml, in this order, or ask the coordinator which are right."
    compared = (
        ("labels", "other-labels", dataset.labels.names, labels),
        ("labels and regions", "other-labels", dataset.labels.target_names, targets),
        ("channels", "other-channels", dataset.channels, channels),
    )
    found: dict[str, Complaint] = {}
    for what, code, own, agreed in compared:
        if agreed is not None and list(own) != agreed:
            sentence = f"The dataset's {what} are {_named(own)}; agreed on are {_named(agreed)}."
            found.setdefault(code, Complaint("", code, sentence, remedy))
    return list(found.values())


def require_agreed(dataset: Dataset, labels: JSON, targets: JSON, channels: JSON) -> None:
    """Raise SiteError with the code of the first disagreement; its cause says what it is, for the site's errors.log."""
    for found in disagreements(dataset, labels or [], targets or [], channels or []):
        raise SiteError(found.code) from DatasetError(str(found))


def _named(names: Sequence[str] | JSON) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list | tuple) and names else "none"
