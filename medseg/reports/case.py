"""The page of one Case: what was found and how good it is, how sure the model is, why, and what speaks against it.

Knows nothing of where the numbers lie on the disk; what was not made is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.evaluation.metrics import CaseScores
from medseg.explanation.document import Explanation
from medseg.reports.page import Html, banner, bullets, link, picture, section, table, tag, write_page
from medseg.uncertainty.summary import CaseUncertainty

NOT_FOR_USE = "Results of a program, unverified. Not for clinical use."
_STATUS = {"missed": "missed altogether", "false_alarm": "found where there is none"}


@dataclass(frozen=True)
class Explained:
    """One explanation and its picture."""

    document: Explanation
    picture: Path


@dataclass(frozen=True)
class CaseFacts:
    """All that is known of one Case."""

    name: str
    facts: dict[str, str]
    remarks: tuple[str, ...] = ()
    """Of whatever read or predicted it."""
    scores: CaseScores | None = None
    uncertainty: CaseUncertainty | None = None
    guarantee: str = ""
    """At which rate, and under which assumption, what is guaranteed holds."""
    explanations: tuple[Explained, ...] = ()

    def doubts(self) -> list[str]:
        """What a reader should know before believing anything here."""
        structures = self.scores.structures if self.scores is not None else ()
        estimates = [one.estimate for one in (self.uncertainty.structures if self.uncertainty is not None else ())]
        warning = self.uncertainty.warning if self.uncertainty is not None else None
        found = [
            *([warning] if warning and warning not in self.remarks else []),
            *self.remarks,
            *(f"'{one.name}' was {_STATUS[one.status]}." for one in structures if one.status in _STATUS),
            *(
                f"'{one.name}' is probably there, but nothing of it was found."
                for one in estimates
                if one.prediction_ml == 0 and one.presence > 0.5
            ),
        ]
        for one in self.explanations:
            said = f"{one.document.label}, {one.document.method}"
            found += [f"{said}: {doubt}" for doubt in one.document.doubts()]
        return found


def write_case_page(
    path: Path, case: CaseFacts, pictures: Sequence[tuple[Path, str]], back: str = "", dataset: str = ""
) -> None:
    """Write the page whole; each of ``pictures`` with what it shows, ``back`` leads to the page of all Cases."""
    title = f"{case.name}, {dataset}" if dataset else case.name
    body = [
        tag("nav", link(back, "all cases")) if back else "",
        tag("h1", case.name),
        banner(NOT_FOR_USE, case.doubts()),
        table((), case.facts.items()),
        *(picture(place, told) for place, told in pictures),
        section("Against the labels", _scores(case.scores)),
        section(
            "How sure the model is",
            _uncertainty(case.uncertainty),
            tag("small", case.guarantee) if case.guarantee else "",
        ),
        section("What the scores depend on", *map(_explanation, case.explanations)),
    ]
    write_page(path, title, body)


def _scores(scores: CaseScores | None) -> Html:
    if scores is None:
        return Html()
    heads = ("structure", "Dice", "HD95, mm", f"NSD at {scores.tolerance_mm:g} mm", "labels, mL", "prediction, mL")
    rows = [
        (one.name, number(one.dice), number(one.hd95_mm, 2), number(one.nsd), number(one.truth_ml),
         number(one.prediction_ml)) for one in scores.structures
    ]  # fmt: skip
    return table(heads, rows)


def _uncertainty(case: CaseUncertainty | None) -> Html:
    if case is None:
        return Html()
    heads = [
        "structure",
        "volume, mL",
        "90 % credible, mL",
        "present",
        "expected Dice",
        "guaranteed, mL",
        "Dice at least",
    ]
    rows = [
        (
            one.estimate.name,
            number(one.estimate.prediction_ml),
            f"{one.estimate.low_ml:.3f} to {one.estimate.high_ml:.3f}",
            number(one.estimate.presence),
            number(one.estimate.expected_dice),
            "-"
            if one.guaranteed is None or one.guaranteed.volume_low_ml is None or one.guaranteed.volume_high_ml is None
            else f"{one.guaranteed.volume_low_ml:.3f} to {one.guaranteed.volume_high_ml:.3f}",
            number(one.guaranteed.dice_low if one.guaranteed is not None else None),
        )
        for one in case.structures
    ]
    urgency = tag(
        "p", f"Review score {case.review_score:.3f} (1 minus the lowest expected Dice; the most urgent is 1)."
    )
    return Html(urgency + table(heads, rows))


def _explanation(one: Explained) -> Html:
    document = one.document
    said = f"{document.label}: {document.method}{f' at {document.layer}' if document.layer else ''}"
    facts = [f"Mean logit {document.score:.2f} over {document.region_voxels} voxels, fold {document.fold}."]
    if document.share_in_region is not None:
        facts.append(
            f"{100 * document.share_in_region:.1f} % of the evidence lies in the region, which is "
            f"{100 * document.share_by_chance:.1f} % of the patch."
        )
    if document.unaccounted is not None:
        facts.append(f"The map does not account for {100 * document.unaccounted:.1f} % of the score.")
    facts.append(" ".join(document.doubts()) or str((document.sanity or {}).get("verdict", "")))
    return Html(tag("h3", said) + bullets(facts) + picture(one.picture, said, caption=False))


def number(value: float | None, digits: int = 3) -> str:
    """A number as it stands in a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
