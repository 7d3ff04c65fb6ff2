"""Whether a site's data fit to take part: the same checks as ``medseg check``, of which only codes and counts leave.

Knows nothing of networks. What is compared with the others (channels, labels) comes in the Request's header; what is
wrong with which file stays in the site's own folder.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from medseg.cases.check import CheckReport, report_on
from medseg.cases.formats import read_dataset
from medseg.errors import Complaint, DatasetError
from medseg.federation.agreement import disagreements
from medseg.federation.egress import Answer
from medseg.federation.messages import JSON, Request

if TYPE_CHECKING:
    from medseg.federation.site import Site


def answer(site: Site, request: Request) -> Answer:
    """Check the site's data: how many cases, which codes and how often, and whether all of it passes.

    The header's ``channels``, ``labels`` (background left out) and ``targets`` (with regions), names in order, are what
    the sites have agreed on, if given.
    """
    report = report_on(site.dataset)
    more = (*_disagreements(site, request), *_too_few(report.cases, site.policy.min_count))
    report = report.model_copy(update={"complaints": (*more, *report.complaints)})
    report.save(site.folder / "check.json")
    wrong = Counter(complaint.code for complaint in report.errors)
    codes = wrong + Counter(complaint.code for complaint in report.warnings)
    return Answer({"cases": report.cases, "passes": not wrong, "codes": _counted(codes, site.policy.min_count)})


def _counted(codes: Counter[str], min_count: int) -> JSON:
    """Every code, with its number only where that is of at least ``min_count``: fewer would point at patients."""
    return {code: number if number >= min_count else None for code, number in sorted(codes.items())}


def _too_few(cases: int, min_count: int) -> list[Complaint]:
    if cases >= min_count:
        return []
    sentence = f"There are {cases} cases with labels to train on; the site's min_count asks for {min_count} at least."
    return [Complaint("", "too-few-cases", sentence, "Add cases: a mean over fewer would point at patients.")]


def _disagreements(site: Site, request: Request) -> list[Complaint]:
    try:
        dataset = read_dataset(site.dataset)
    except DatasetError:
        return []  # the report says so already
    return disagreements(dataset, *(request.header.get(name) for name in ("labels", "targets", "channels")))


def read_report(site: Site) -> CheckReport:
    """Every finding of the last check with its file: for the site's own eyes."""
    return CheckReport.load(site.folder / "check.json")
