"""The page of one experiment: what was trained, how good it is on held-out Cases, and how far that can be trusted.

Knows nothing of where the numbers lie on the disk; what was not made is named in the banner with the command for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.evaluation.calibration import CalibrationScores
from medseg.evaluation.scores import Scores, as_rows, rank_cases
from medseg.inference.selection import Selection
from medseg.reports.case import NOT_FOR_USE, CaseFacts, number
from medseg.reports.page import Html, banner, link, picture, section, table, tag, write_page
from medseg.uncertainty.calibration import Calibration, Coverage
from medseg.uncertainty.familiarity import FALSE_ALARMS, Familiarity

_FEW = 10
_NOBODY = CaseFacts("", {})
_WEAK = 0.3
"""A rank correlation with the true Dice below which an estimate hardly sorts Cases."""


@dataclass(frozen=True)
class Experiment:
    """All that is known of a workspace's trainings."""

    title: str
    facts: dict[str, str]
    scores: Mapping[str, Scores]
    """Of each configuration, all Cases whose truth is known."""
    captions: Mapping[str, str]
    """Which Cases those are."""
    pictures: Mapping[str, Path]
    """Of the scores, by configuration."""
    curves: Mapping[str, Path]
    """Of each training, by what it is called."""
    selection: Selection | None = None
    calibration: Calibration | None = None
    calibration_picture: Path | None = None
    calibration_is_stale: bool = False
    familiarity: Familiarity | None = None
    notes: tuple[str, ...] = ()
    cases: tuple[CaseFacts, ...] = ()
    """The worst first."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Of the pages that Cases have, by name."""

    def doubts(self) -> list[str]:
        """What a reader should know before believing anything here."""
        found = list(self.notes)
        for name, scores in self.scores.items():
            if len(scores.cases) < _FEW:
                found.append(f"{name}: only {len(scores.cases)} cases with labels; the intervals are rough.")
            for one in scores.structures:
                counted = [(one.n_missed, "missed"), (one.n_false_alarm, "found where it is not")]
                found += [
                    f"{name}: '{one.name}' was {what} in {count} of {len(scores.cases)} cases."
                    for count, what in counted
                    if count
                ]
        if self.familiarity is None:
            found.append("Nothing warns of unusual images ('medseg calibrate').")
        return found + self._doubts_of_calibration()

    def _doubts_of_calibration(self) -> list[str]:
        known = self.calibration
        if known is None:
            return ["Probabilities were not calibrated, and nothing is guaranteed ('medseg calibrate')."]
        found = (
            ["The calibration was made for other networks ('medseg calibrate')."] if self.calibration_is_stale else []
        )
        if known.after.ece > known.before.ece:
            found.append(
                f"Calibration raises the error of confidence: {known.before.ece:.4f} to {known.after.ece:.4f}."
            )
        for one in known.structures:
            missed = [f"{what} {_held(x)}" for what, x in one.coverage.items() if x.high < known.rate]
            if missed:
                found.append(f"'{one.name}': less often true than the asked {known.rate:g}: {', '.join(missed)}.")
            if not one.coverage:
                found.append(f"'{one.name}': too few held-out cases for any guarantee at {known.rate:g}.")
            if one.quality is not None and one.quality.spearman is not None and one.quality.spearman < _WEAK:
                found.append(
                    f"'{one.name}': the expected Dice hardly sorts held-out cases (rank correlation with the true one "
                    f"{one.quality.spearman:.2f} over {one.quality.cases})."
                )
        return found


def write_experiment_page(path: Path, experiment: Experiment, worst: Sequence[tuple[Path, str]]) -> None:
    """Write the page whole; ``worst`` are pictures of the worst Cases, each with what it shows."""
    parts = {
        "Scores": [*_scores(experiment)],
        "Configurations compared": [_selection(experiment.selection)],
        "Calibration and guarantees": _calibration(experiment),
        "What images it knows": _images(experiment.familiarity),
        "First to look at": [
            tag("div", *(picture(place, told) for place, told in worst), class_="small") if worst else ""
        ],
        "Training": [picture(place, name) for name, place in experiment.curves.items()],
        "All cases": [_cases(experiment)],
    }
    sections = {title: section(title, *content, name=_anchor(title)) for title, content in parts.items()}
    body = [
        tag("h1", experiment.title),
        banner(NOT_FOR_USE, experiment.doubts()),
        table((), experiment.facts.items()),
        tag("nav", *(link(f"#{_anchor(title)}", title) for title, content in sections.items() if content)),
        *sections.values(),
    ]
    write_page(path, experiment.title, body)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _scores(experiment: Experiment) -> list[Html]:
    parts = []
    for name, scores in experiment.scores.items():
        parts.append(tag("h3", f"{name}: {experiment.captions[name]}"))
        parts.append(table(*as_rows(scores)))
        if name in experiment.pictures:
            parts.append(picture(experiment.pictures[name], f"Dice of every case, {name}", caption=False))
    return parts


def _selection(selection: Selection | None) -> Html:
    if selection is None:
        return Html()
    heads = ("configuration", "Dice", "95 % interval", "difference to the best single one", "p")
    rows = [
        (
            one.name,
            number(one.dice),
            f"{number(one.low)} to {number(one.high)}",
            f"{one.difference:+.4f} [{number(one.difference_low, 4)}, {number(one.difference_high, 4)}]",
            number(one.p_value),
        )
        for one in selection.candidates
    ]
    rules = ", ".join(rule.target for rule in selection.rules)
    told = f"Chosen: {' + '.join(selection.chosen)}. " + (f"Largest component kept: {rules}." if rules else "")
    return Html(table(heads, rows) + tag("p", told))


def _calibration(experiment: Experiment) -> list[Html]:
    known = experiment.calibration
    if known is None:
        return []
    kinds = (
        ("in doubt, as trained", known.before),
        ("in doubt, calibrated", known.after),
        ("all, as trained", known.before_everywhere),
        ("all, calibrated", known.after_everywhere),
    )
    heads = ("voxels", "ECE", "adaptive ECE", "Brier", "NLL", "AUROC of entropy", "area under risk")
    guarantees = [
        (one.name, *(_held(one.coverage.get(what)) for what in ("outer", "inner", "volume", "dice")),
         f"{number(one.quality.spearman, 2)} (off by {one.quality.error:.3f})" if one.quality is not None else "-")
        for one in known.structures
    ]  # fmt: skip
    shown = experiment.calibration_picture
    return [
        tag("p", f"{known.headline}."),
        picture(shown, "Reliability, and the error rate of the most certain voxels") if shown is not None else Html(),
        table(heads, [_row(name, one) for name, one in kinds]),
        tag("h3", f"How often what is guaranteed at {known.rate:g} held [95 % interval], and the expected Dice"),
        table(("structure", "outer contour", "inner contour", "volume", "Dice bound", "rank correlation"), guarantees),
        tag("small", known.assumption),
    ]


def _images(known: Familiarity | None) -> list[Html]:
    if known is None:
        return []
    least = 1 / (known.cases + 1)
    told = (
        f"A new image is compared with {known.cases} held-out ones by what is measured of it"
        f"{' and by what the networks make of it' if known.features else ''}, and warned of where it is stranger than "
        f"all but {100 * max(FALSE_ALARMS, least):.2g} % of them would be."
    )
    rows = [(one.name, f"{one.low:.4g} to {one.high:.4g}") for one in known.usual]
    return [tag("p", told), table(("measured", "held-out cases"), rows)]


def _row(name: str, scores: CalibrationScores) -> tuple[str, ...]:
    numbers = (scores.ece, scores.adaptive_ece, scores.brier, scores.nll, scores.auroc)
    return (name, *(number(one, 4) for one in numbers), number(scores.aurc, 5))


def _held(coverage: Coverage | None) -> str:
    if coverage is None:
        return "too few cases"
    return f"{coverage.held} of {coverage.cases} [{coverage.low:.2f}, {coverage.high:.2f}]"


def _cases(experiment: Experiment) -> Html:
    """The worst first; a Case with a page of its own is a link to it."""
    columns: dict[str, list[str]] = {
        "case": [_linked(case.name, experiment) for case in experiment.cases],
        "mean Dice": [number(case.scores.mean_dice if case.scores else None) for case in experiment.cases],
        "review score": [
            number(case.uncertainty.review_score if case.uncertainty else None) for case in experiment.cases
        ],
        **{key: [case.facts[key] for case in experiment.cases] for key in (experiment.cases or [_NOBODY])[0].facts},
        "what to know": [" ".join(case.doubts()) for case in experiment.cases],
    }
    told = {head: cells for head, cells in columns.items() if set(cells) - {"-", ""}}
    return table(told, zip(*told.values(), strict=True))


def _linked(name: str, experiment: Experiment) -> str:
    return link(experiment.addresses[name], name) if name in experiment.addresses else name


def worst_first(scores: Scores) -> list[str]:
    """Names of the Cases, the lowest mean Dice first; those without one at the end."""
    ranked = [case.case for case in rank_cases(scores)]
    return [*ranked, *(case.case for case in scores.cases if case.case not in set(ranked))]
