"""What a federation is worth: every model on every site's held-out cases, and on a hospital that took no part.

Knows nothing of how a model was trained. Cells of sites with too few cases stay empty; the worst site and the spread
over sites stand beside the mean, for a mean alone hides whom a model does not serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from medseg.documents import Document, Record
from medseg.errors import MedsegError, SiteError
from medseg.federation.messages import Reply
from medseg.federation.run_state import RunState

_CLOSE = 0.95


class Cell(Record):
    """One model at one site."""

    cases: int
    dice: float
    """Mean over structures of the mean over held-out cases."""
    low: float | None = None
    """Lower end of its 95 % interval (cases resampled at the site)."""
    high: float | None = None
    hd95_mm: float | None = None


class Row(Record):
    """One model, or one for each site, at all sites."""

    model: str
    cells: dict[str, Cell]
    """By site; one with too few cases, or that the model is not made for, is left out."""
    rounds_to_95: int | None = None
    """Rounds after which the sites' mean Dice was 95 % of the best of the run."""
    bytes_up: int = 0
    """From all sites, over all rounds."""
    bytes_down: int = 0
    seconds: float = 0.0

    def dice_at(self, sites: Sequence[str]) -> list[float]:
        """Dice at those of the sites that have one."""
        return [self.cells[site].dice for site in sites if site in self.cells]

    def mean(self, sites: Sequence[str]) -> float | None:
        """Mean over sites."""
        found = self.dice_at(sites)
        return float(np.mean(found)) if found else None


class Comparison(Document):
    """``comparison.json``: the matrix of models and sites."""

    kind: ClassVar[str] = "federated-comparison"
    error: ClassVar[type[MedsegError]] = SiteError

    sites: tuple[str, ...]
    """Those that trained."""
    left_out: str | None = None
    """The hospital that took no part."""
    budget: str
    """What each model was allowed, in words."""
    rows: tuple[Row, ...]
    """What a hospital would compare: local (each site with its own model), ensemble, the strategies, centralised."""
    local: tuple[Row, ...] = ()
    """Each site's own model at all sites."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Sites, the one that took no part last."""
        return self.sites if self.left_out is None else (*self.sites, self.left_out)

    def row(self, model: str) -> Row:
        """The row of a model."""
        return next(row for row in self.rows if row.model == model)


def cells_of(replies: Mapping[str, Reply]) -> dict[str, Cell]:
    """The cells of the sites that told a Dice."""
    found = {}
    for site, reply in sorted(replies.items()):
        header = reply.header
        dice, cases = header.get("dice"), header.get("cases")
        if reply.error is None and isinstance(dice, float) and isinstance(cases, int):
            found[site] = Cell.model_validate(
                {
                    "cases": cases,
                    "dice": dice,
                    "low": header.get("dice_low"),
                    "high": header.get("dice_high"),
                    "hd95_mm": header.get("hd95_mm"),
                }
            )
    return found


def row_of_run(model: str, state: RunState, cells: Mapping[str, Cell]) -> Row:
    """A run's row, with what it cost."""
    return Row(
        model=model,
        cells=dict(cells),
        rounds_to_95=_rounds_to_share(course_of(state, cells)),
        bytes_up=sum(record.bytes_up for record in state.history),
        bytes_down=sum(record.bytes_down for record in state.history),
        seconds=round(sum(record.seconds for record in state.history), 2),
    )


def course_of(state: RunState, cells: Mapping[str, Cell]) -> list[float | None]:
    """The sites' mean Dice after 0, 1, 2, ... rounds; the last one is that of the final scores."""
    course = [float(np.mean(list(record.dice.values()))) if record.dice else None for record in state.history]
    final = [cells[site].dice for site in state.sites if site in cells]
    return [*course, float(np.mean(final)) if final else None]


def local_row(local: Mapping[str, Row], left_out: str | None) -> Row:
    """Each site with its own model; at the hospital that took no part the mean of all of them."""
    cells = {site: row.cells[site] for site, row in local.items() if site in row.cells}
    outside = [row.cells[left_out] for row in local.values() if left_out is not None and left_out in row.cells]
    if outside and left_out is not None:
        cells[left_out] = Cell(cases=outside[0].cases, dice=float(np.mean([cell.dice for cell in outside])))
    return Row(model="local", cells=cells, seconds=round(sum(row.seconds for row in local.values()), 2))


def matrix_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column titles and one row of text for each model, each site's own at the end: Dice with its interval."""
    cases = {site: cell.cases for row in (*comparison.rows, *comparison.local) for site, cell in row.cells.items()}
    titles = ["model", *(f"{site} (n={cases[site]})" if site in cases else site for site in comparison.columns)]
    rows = [
        [row.model, *(_cell_text(row.cells.get(site)) for site in comparison.columns)]
        for row in (*comparison.rows, *comparison.local)
    ]
    return titles, rows


def cost_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows: mean, worst site and spread of each model, at the hospital outside, and its costs."""
    outside = comparison.left_out
    titles = ["model", "mean", "worst site", "spread", *([f"{outside} (took no part)"] if outside else [])]
    titles += ["rounds to 95 %", "MB up", "MB down", "seconds"]
    rows = []
    for row in comparison.rows:
        found = row.dice_at(comparison.sites)
        text = [f"{np.mean(found):.3f}", f"{min(found):.3f}", f"{np.std(found):.3f}"] if found else ["-"] * 3
        if outside:
            text.append(f"{row.cells[outside].dice:.3f}" if outside in row.cells else "-")
        text.append("-" if row.rounds_to_95 is None else str(row.rounds_to_95))
        text += [f"{row.bytes_up / 1e6:.2f}", f"{row.bytes_down / 1e6:.2f}"] if row.bytes_up else ["-", "-"]
        rows.append([row.model, *text, f"{row.seconds:.1f}" if row.seconds else "-"])
    return titles, rows


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.dice:.3f}" + ("" if cell.low is None else f" [{cell.low:.2f} {cell.high:.2f}]")


def _rounds_to_share(course: Sequence[float | None]) -> int | None:
    """After how many rounds a course (its first value is that of round 0) reaches 95 % of its best."""
    known = [(number, value) for number, value in enumerate(course) if value is not None]
    if not known:
        return None
    best = max(value for _, value in known)
    return next(number for number, value in known if value >= _CLOSE * best)
