"""``medseg report``: one web page for an experiment, or for a folder of predictions, and one for each case.

After training: ``medseg report``. After 'medseg predict output=DIR uncertainty=tta': ``medseg report predictions=DIR``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeInt

from medseg.commands.chosen import chosen_workspace
from medseg.commands.console import Bar, say
from medseg.files import folder_written_whole, require_replaceable
from medseg.settings import Settings, build

if TYPE_CHECKING:
    from medseg.commands.report_cases import Drawn, Reported

_INDEX = "index.html"


class ReportSettings(Settings):
    """Settings of ``medseg report``."""

    workspace: Path | None = None
    """A workspace with trained folds; by default the one last used from here."""
    predictions: Path | None = None
    """Instead of the held-out cases: a folder that 'medseg predict' has written, best with uncertainty=."""
    output: Path | None = None
    """Folder for index.html and a page for each case; by default report/ in the workspace or in the predictions."""
    cases: NonNegativeInt | Literal["all"] = 20
    """How many cases get a page of their own: those that need to be looked at first."""
    worst: NonNegativeInt = 3
    """Of how many the page of all cases shows a picture."""


SETTINGS = (ReportSettings,)


def run(words: Mapping[str, str]) -> None:
    """Write ``index.html`` and ``cases/NAME.html``, each a file that needs nothing but itself."""
    settings = build(ReportSettings, words)
    from medseg.commands.report_predicted import report_predicted
    from medseg.commands.report_trained import report_trained

    if settings.predictions is not None:
        reported = report_predicted(settings.predictions)
    else:
        reported = report_trained(chosen_workspace(settings.workspace))
    output = settings.output or reported.folder / "report"
    require_replaceable(output, _INDEX)
    chosen = reported.cases if settings.cases == "all" else reported.cases[: settings.cases]
    with folder_written_whole(output) as folder, TemporaryDirectory() as scratch:
        drawn = _write_cases(folder, chosen, reported, Path(scratch))
        _write_index(
            folder / _INDEX, reported, drawn[: settings.worst], [one.facts.name for one in chosen], Path(scratch)
        )
    left = len(reported.cases) - len(chosen)
    more = f" ({left} more have none: cases=all)" if left else ""
    say(f"{output / _INDEX}: {reported.title}; {len(chosen)} case(s) with a page of their own{more}")


def _write_cases(folder: Path, chosen: Sequence[Drawn], reported: Reported, scratch: Path) -> list[tuple[Path, str]]:
    """Write the pages; the first picture of each Case, for the page of all."""
    from medseg.reports.case import write_case_page

    first = []
    with Bar() as bar:
        bar.start("Drawing", len(chosen))
        for number, case in enumerate(chosen):
            pictures, facts = case.draw(scratch / f"{number}")
            page = folder / _address(case.facts.name)
            write_case_page(page, facts, pictures, back=f"../{_INDEX}", dataset=reported.title)
            first += pictures[:1]
            bar.advance()
    return first


def _address(case: str) -> str:
    return f"cases/{case}.html"


def _write_index(
    path: Path, reported: Reported, worst: Sequence[tuple[Path, str]], pages: Sequence[str], scratch: Path
) -> None:
    from medseg.reports.experiment import write_experiment_page

    experiment = reported.experiment(scratch)
    addresses = {name: _address(name) for name in pages}
    write_experiment_page(path, replace(experiment, addresses=addresses), worst)
