"""Whether a site's data fit to take part: the same checks as ``medseg check``, of which only codes and counts leave.

Knows nothing of networks. What is compared with the others (channels, labels) comes in the Request's header; what is
wrong with which file stays in the site's own folder.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from medseg.cases.check import CheckReport, report_on
from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset
from medseg.errors import DatasetError
from medseg.federation.egress import Answer
from medseg.federation.messages import JSON, Request

if TYPE_CHECKING:
    from medseg.federation.site import Site


def answer(site: Site, request: Request) -> Answer:
    """Check the site's data: how many cases, which codes and how often, and whether all of it passes.

    The header's ``channels`` (names in order) and ``labels`` (names in order, background left out), if given, are what
    the sites have agreed on.
    """
    report = report_on(site.dataset)
    report.save(site.folder / "check.json")
    wrong = Counter(complaint.code for complaint in report.errors)
    for code in _disagreements(site, request):
        wrong[code] += 1
    if report.cases < site.policy.min_count:
        wrong["too-few-cases"] += 1
    codes = wrong + Counter(complaint.code for complaint in report.warnings)
    return Answer({"cases": report.cases, "passes": not wrong, "codes": _counted(codes, site.policy.min_count)})


def _counted(codes: Counter[str], min_count: int) -> JSON:
    """Every code, with its number only where that is of at least ``min_count``: fewer would point at patients."""
    return {code: number if number >= min_count else None for code, number in sorted(codes.items())}


def _disagreements(site: Site, request: Request) -> list[str]:
    try:
        dataset = read_dataset(site.dataset)
    except DatasetError:
        return []  # the report says so already
    return [code for code, differs in _compared(dataset, request) if differs]


def _compared(dataset: Dataset, request: Request) -> list[tuple[str, bool]]:
    channels, labels = request.header.get("channels"), request.header.get("labels")
    return [
        ("other-channels", channels is not None and list(dataset.channels) != channels),
        ("other-labels", labels is not None and list(dataset.labels.names) != labels),
    ]


def read_report(site: Site) -> CheckReport:
    """Every finding of the last check with its file: for the site's own eyes."""
    return CheckReport.load(site.folder / "check.json")
