"""A table never cuts what it shows, however narrow the terminal is."""

import io

import pytest
from rich.console import Console

from medseg.commands import console
from medseg.commands.plan_show import _times

COLUMNS = [f"a column with a long name {number}" for number in range(12)]
ROW = ["first", *(f"{number}23,456,789 GB" for number in range(1, 12))]


def test_where_stdout_is_a_file_a_row_is_one_line(capsys):
    console.table("Numbers", COLUMNS, [ROW])
    lines = capsys.readouterr().out.splitlines()
    assert all(name in lines[2] for name in COLUMNS)
    assert all(cell in lines[4] for cell in ROW)


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_narrow_terminal_cells_go_on_below(width, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "_out", Console(file=shown, width=width, soft_wrap=True))
    console.table("Numbers", COLUMNS, [ROW])
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    cells = [line.split("\u2502")[1:-1] for line in lines if line.startswith("\u2502")]
    read = ["".join("".join(parts).split()) for parts in zip(*cells, strict=True)]
    assert read == ["".join(cell.split()) for cell in ROW]


@pytest.mark.parametrize(("passes", "shown"), [(0.123, "0.12"), (7.06, "7.1"), (99.4, "99"), (9432.2, "9,432")])
def test_large_numbers_are_written_out(passes, shown):
    assert _times(passes) == shown
