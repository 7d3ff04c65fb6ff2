"""``explanation.json``: what was found of one question, beside its map."""

from __future__ import annotations

from typing import Any, ClassVar

from medseg.documents import Document


class Explanation(Document):
    """``explanation.json``."""

    kind: ClassVar[str] = "explanation"

    case: str
    label: str
    method: str
    layer: str | None = None
    configuration: str
    fold: int | str
    region_voxels: int
    """Of the region within the patch, on the network's grid."""
    score: float
    """Mean logit of the structure over the region."""
    largest: float
    """Of the map, as the method gives it."""
    is_blank: bool
    """Whether there is no positive evidence at all."""
    share_in_region: float | None = None
    """Of the evidence that lies in the region itself; null for a blank map."""
    share_by_chance: float
    """The region's share of the patch: what evenly spread evidence would give."""
    unaccounted: float | None = None
    """Of Integrated Gradients: the share of the score that the map does not add up to."""
    sanity: dict[str, Any] | None = None
    """``medseg.explanation.sanity.SanityReport``, where it was asked for."""

    def doubts(self) -> list[str]:
        """Why this map should not be believed, or is not known to be believable; empty for one that passed."""
        if self.is_blank:
            return ["There is no positive evidence: the map is blank."]
        if self.sanity is None:
            return ["Whether this map can be believed was not checked (sanity=true)."]
        return [] if self.sanity["depends_on_weights"] and self.sanity["is_faithful"] else [self.sanity["verdict"]]
