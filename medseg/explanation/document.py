"""What was found of one question: ``explanation.json`` beside a map, ``concept.json``, ``counterfactual.json``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from medseg.arrays import Triple
from medseg.documents import Document, Record


class Explanation(Document):
    """``explanation.json``."""

    kind: ClassVar[str] = "explanation"

    case: str
    label: str
    method: str
    layer: str | None = None
    layer_choice: Literal["auto", "last", "named"] | None = None
    """How the layer was chosen; null where the method looks at none."""
    component: int | None = None
    """Only this connected part of the structure was asked about, 1 is the largest."""
    point: Triple | None = None
    """Only what lies around this voxel (z, y, x) of the file was asked about."""
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
        return [] if self.is_believable else [self.sanity["verdict"]]

    @property
    def is_believable(self) -> bool:
        """Whether there is a map that was checked and found to show what the network goes by."""
        found = self.sanity or {}
        passed = found.get("depends_on_weights") and found.get("is_faithful") and found.get("is_decided", True)
        return bool(passed) and not self.is_blank


SIGNIFICANT = 0.05


class ConceptScore(Record):
    """What a concept has to do with one structure (``medseg.explanation.concepts``)."""

    places: int
    """Of the structure on the layer's grid, over all cases."""
    examples: int
    random_examples: int
    runs: int
    score: float
    """Share of places at which the structure's score rises along the concept, mean over runs."""
    low: float
    """95 % interval of that mean over runs."""
    high: float
    random_score: float
    """The same along directions from random examples to others."""
    p_value: float
    """Of Welch's t-test between the two, two-sided."""
    told_apart: float
    """Share of examples, of the concept and as many random ones, that the others put on the right side."""
    told_apart_p: float
    """Of as many or more by chance."""

    @property
    def is_significant(self) -> bool:
        """Whether the layer knows the concept, and the structure's score depends on it."""
        return self.told_apart_p < SIGNIFICANT and self.p_value < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """In words."""
        if self.told_apart_p >= SIGNIFICANT:
            return (
                f"Not significant: the layer does not tell examples of the concept from random ones "
                f"({100 * self.told_apart:.0f} % right, p {self.told_apart_p:.2g})."
            )
        if self.p_value >= SIGNIFICANT:
            return f"Not significant: random directions do as much (p {self.p_value:.2g})."
        sign = "for" if self.score > self.random_score else "against"
        return f"Significant (p {self.p_value:.2g}): at this layer the concept speaks {sign} the structure."


class ConceptReport(Document):
    """``concept.json``."""

    kind: ClassVar[str] = "concept"

    concept: str
    random: str
    configuration: str
    fold: int | str
    layer: str
    cases: tuple[str, ...]
    """In which the structures were looked at."""
    seed: int
    structures: dict[str, ConceptScore]
    absent: tuple[str, ...] = ()
    """Structures that were found in none of the cases."""


class Counterfactual(Document):
    """``counterfactual.json``."""

    kind: ClassVar[str] = "counterfactual"

    case: str
    label: str
    change: Literal["remove", "add"]
    configuration: str
    fold: int | str
    region_voxels: int
    """Of the region within the patch, on the network's grid."""
    share_before: float
    """Of the region that is the structure for this network in one pass, as the image is."""
    share_after: float
    """The same after the change."""
    share_everything: float
    """The same where all of the place is changed, which is the most that could be."""
    was_found: bool
    """Whether the structure is gone from (or was added to) all but a tenth of the region."""
    changed_share: float | None = None
    """Of the place that may be changed: mean opacity of the change."""
    largest_change: float | None = None
    """Of any voxel, in standard deviations of the normalised image."""
    voxels_before: int
    """Voxels of the region, in the file, that the whole prediction gives to the structure."""
    voxels_after: int | None = None
    """The same for the changed image, predicted anew from the start."""
    elsewhere_before: int
    """Voxels outside of the region that the whole prediction gives to the structure."""
    elsewhere_after: int | None = None
    """The same for the changed image: what is judged by contrast may turn up where it was not."""

    @property
    def verdict(self) -> str:
        """In words."""
        what = "removes" if self.change == "remove" else "adds"
        if not self.was_found:
            return (
                f"No counterfactual was found: with the whole place changed {100 * self.share_everything:.0f} % of the "
                f"region is the structure, so that {what} too little. What the network goes by lies elsewhere, or "
                "looks otherwise."
            )
        return (
            f"A change of {100 * (self.changed_share or 0):.0f} % of the place {what} the structure "
            f"({100 * self.share_before:.0f} % of the region before, {100 * self.share_after:.0f} % after)."
        )
