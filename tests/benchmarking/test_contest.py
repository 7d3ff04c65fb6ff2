"""Two sides take turns in processes of their own; parity comes before time, and a broken side is named."""

import sys
from pathlib import Path

import pytest

from medseg.benchmarking.contest import Measured, Side, SideFailedError, compete
from medseg.benchmarking.result import timed_row, verdict
from medseg.benchmarking.setup import Setup
from medseg.errors import MedsegError
from medseg.progress import Silent

SIDE = """
import os, time
from pathlib import Path

def prepare(request):
    print("libraries chatter")
    def work():
        with open(request["diary"], "a") as diary:
            diary.write(request["letter"])
        time.sleep(request["seconds"])
        if request["letter"] == "x":
            raise RuntimeError("out of breath")
        return request["letter"], {"threads": float(os.environ["OMP_NUM_THREADS"])}
    return work

def keep(result, folder):
    Path(folder, "kept.txt").write_text(result)
"""


def side(folder: Path, letter: str, seconds: float = 0.0) -> Side:
    (folder / "side.py").write_text(SIDE)
    request = {"diary": str(folder / "diary.txt"), "letter": letter, "seconds": seconds}
    return Side(letter, str(folder / "side.py"), request, Path(sys.executable))


def test_the_sides_alternate_and_the_first_turn_of_each_is_not_counted(tmp_path):
    seen = []

    def gate(first, second):
        seen.append(((first / "kept.txt").read_text(), (second / "kept.txt").read_text()))
        return "alike"

    mine, other, said = compete(side(tmp_path, "a"), side(tmp_path, "b", 0.05), 3, 2, Silent(), gate)
    assert (tmp_path / "diary.txt").read_text() == "ab" + "ababab"
    assert (seen, said) == ([("a", "b")], "alike")
    assert other is not None
    assert len(mine.seconds) == len(other.seconds) == 3
    assert other.median >= 0.05 > mine.median
    assert mine.facts == {"threads": 2.0}
    assert 1_000_000 < mine.memory < 1_000_000_000
    assert "python" in mine.versions


def test_where_parity_is_refused_no_time_is_taken(tmp_path):
    def gate(first, second):
        raise MedsegError("7 voxels differ")

    with pytest.raises(MedsegError, match="7 voxels differ"):
        compete(side(tmp_path, "a"), side(tmp_path, "b"), 3, 1, Silent(), gate)
    assert (tmp_path / "diary.txt").read_text() == "ab"


def test_a_side_that_breaks_down_is_named_with_its_last_words(tmp_path):
    with pytest.raises(SideFailedError, match="x broke down: RuntimeError: out of breath"):
        compete(side(tmp_path, "a"), side(tmp_path, "x"), 1, 1, Silent())


def measured(seconds: float, memory: int) -> Measured:
    return Measured((seconds,), memory, 0, {}, {})


def test_a_loss_is_a_loss_in_the_row():
    row = timed_row("C2", "work", measured(2.0, 900), measured(1.0, 1000), "peer", goal=1.15, memory_goal=0.7)
    assert (row.ratio, row.reached, verdict(row)) == (0.5, False, "missed")
    row = timed_row("C2", "work", measured(1.0, 900), measured(2.0, 1000), "peer", goal=1.15, memory_goal=0.7)
    assert verdict(row) == "missed", "fast enough, but not small enough"
    assert verdict(timed_row("C2", "work", measured(1.0, 600), measured(2.0, 1000), "p", goal=1.15)) == "reached"
    assert verdict(timed_row("C2", "work", measured(1.0, 600), None, "peer", goal=1.15)) == ""


def test_a_missing_peer_is_one_line_that_says_how_to_install_it(tmp_path):
    setup = Setup(tmp_path, Silent(), nnunet=tmp_path / "no" / "python")
    assert setup.python("nnunetv2") is None
    assert setup.python("nnunetv2") is None
    (line,) = setup.missing
    assert "pip install nnunetv2==2.8.1" in line
    assert "nnunet=nnunet/bin/python" in line
