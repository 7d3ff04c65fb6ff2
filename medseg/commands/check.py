"""``medseg check``: everything that is wrong with a dataset, as text for people and JSON for programs.

Knows nothing of the rules; those are in ``medseg.cases.check``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medseg.commands.console import Bar, say
from medseg.errors import Complaint
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.cases.check import CheckReport

_SHOWN = 10
"""Warnings of one kind that are printed; errors are all printed, and the JSON holds everything."""


class CheckSettings(Settings):
    """What to check, and where to put the findings."""

    dataset: Path
    """A folder, dataset.yaml, dataset.json or CSV."""
    output: Path | None = None
    """A JSON file to write the findings to."""
    format: Literal["text", "json"] = "text"
    """What is printed."""
    workers: int = Field(0, ge=0)
    """Threads that read files; 0 reads one after the other."""


SETTINGS: tuple[type, ...] = (CheckSettings,)


def run(words: Mapping[str, str]) -> int:
    """Check and report; 2 when there is any error, else 0."""
    settings = build(CheckSettings, words)
    from medseg.cases.check import report_on

    with Bar() as bar:
        report = report_on(settings.dataset, bar, settings.workers)
    if settings.output is not None:
        report.save(settings.output)
    if settings.format == "json":
        say(json.dumps(report.content(), indent=1, ensure_ascii=False))
    else:
        _print(report, settings)
    return 2 if report.errors else 0


def _print(report: CheckReport, settings: CheckSettings) -> None:
    if report.dataset:
        test = f", {report.test} for testing" if report.test else ""
        say(f"{report.dataset}: {report.cases} cases with labels, {report.unlabelled} without{test}")
    _print_group("Errors", report.errors, None)
    _print_group("Warnings", report.warnings, _SHOWN)
    if not report.complaints:
        say("Nothing is wrong.")
    if settings.output is not None:
        say(f"\nAll findings are in {settings.output}.")


def _print_group(title: str, complaints: Sequence[Complaint], most: int | None) -> None:
    if complaints:
        say(f"\n{title} ({len(complaints)})")
    for code, group in groupby(complaints, key=lambda complaint: complaint.code):
        alike = list(group)
        say(f"  {code}" + (f" ({len(alike)})" if len(alike) > 1 else ""))
        for complaint in alike[:most]:
            say(f"    {_with_case(complaint)}")
        if most is not None and len(alike) > most:
            say(f"    ... and {len(alike) - most} more; output=FILE.json holds all of them.")
        for remedy in dict.fromkeys(complaint.remedy for complaint in alike if complaint.remedy):
            say(f"    -> {remedy}")


def _with_case(complaint: Complaint) -> str:
    named = not complaint.case or complaint.case in complaint.sentence
    return complaint.sentence if named else f"Case '{complaint.case}': {complaint.sentence}"
