"""A log that was changed afterwards says so, and a crash in the middle of a line loses no entry before it."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medseg.chained_log import FIRST, ChainedLog, DamagedLogError
from medseg.errors import MedsegError


@pytest.fixture
def log(tmp_path: Path) -> ChainedLog:
    log = ChainedLog(tmp_path / "log.jsonl")
    for number in range(4):
        log.append("answered", action="Übung", round=number, bytes=100 * number)
    return log


def test_a_log_that_nobody_touched_is_sound(log: ChainedLog) -> None:
    verdict = log.verify()
    assert (verdict.entries, verdict.complaint) == (4, None)
    assert [entry["round"] for entry in log.read()] == [0, 1, 2, 3]
    assert verdict.head == list(log.read())[-1]["sha256"]


def test_a_log_that_does_not_exist_yet_is_sound_and_empty(tmp_path: Path) -> None:
    verdict = ChainedLog(tmp_path / "none.jsonl").verify()
    assert (verdict.entries, verdict.head, verdict.complaint) == (0, FIRST, None)


def _drop(lines: list[str]) -> list[str]:
    return [lines[0], *lines[2:]]


def _change(lines: list[str]) -> list[str]:
    return [lines[0], lines[1].replace('"bytes": 100', '"bytes": 99'), *lines[2:]]


def _rehash(lines: list[str]) -> list[str]:
    """What a careful forger does: change an entry and give it the hash that fits."""
    from medseg.files import hash_content

    entry = {**json.loads(lines[1]), "bytes": 99}
    del entry["sha256"]
    return [lines[0], json.dumps({**entry, "sha256": hash_content(entry)}), *lines[2:]]


def _swap(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], lines[3]]


def _shorten(lines: list[str]) -> list[str]:
    return lines[:3]


def _empty(_: list[str]) -> list[str]:
    return []


@pytest.mark.parametrize("forge", [_drop, _change, _rehash, _swap, _shorten, _empty])
def test_a_log_that_was_changed_is_told_and_takes_no_entry(
    log: ChainedLog, forge: Callable[[list[str]], list[str]]
) -> None:
    forged = forge(log.path.read_text().splitlines())
    log.path.write_text("".join(line + "\n" for line in forged))
    complaint = log.verify().complaint
    assert complaint is not None
    assert "tampered" in complaint or "shortened" in complaint
    with pytest.raises(DamagedLogError, match=r"log\.jsonl: line|The log was shortened"):
        log.append("answered")


def test_a_deleted_log_is_told(log: ChainedLog) -> None:
    log.path.unlink()
    assert "shortened" in str(log.verify().complaint)


def test_half_a_line_from_a_crash_is_cut_off_and_said_so(log: ChainedLog) -> None:
    with log.path.open("a") as stream:
        stream.write('{"entry": 4, "what": "answ')
    assert "cut off" in str(log.verify().complaint)
    log.append("answered", round=4)
    assert log.verify().complaint is None
    assert [entry["what"] for entry in log.read()][-2:] == ["cut-off-half-a-line", "answered"]


def test_a_crash_between_the_entry_and_its_mark_is_no_tampering(log: ChainedLog) -> None:
    before = log.mark.read_text()
    log.append("answered", round=4)
    log.mark.write_text(before)
    assert log.verify().complaint is None
    log.append("answered", round=5)
    assert log.verify().entries == 6


def _append_ten(path: Path) -> None:
    for number in range(10):
        ChainedLog(path).append("answered", round=number)


def test_processes_that_write_at_once_keep_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_ten, args=(tmp_path / "log.jsonl",)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    verdict = ChainedLog(tmp_path / "log.jsonl").verify()
    assert (verdict.entries, verdict.complaint) == (20, None)


def test_only_the_owner_may_read_the_log(log: ChainedLog) -> None:
    assert log.path.stat().st_mode & 0o077 == 0


def test_a_change_of_what_this_process_wrote_is_seen_before_the_next_entry(log: ChainedLog) -> None:
    content = log.path.read_bytes()
    log.path.write_bytes(content.replace(b"100", b"999"))
    with pytest.raises(DamagedLogError, match=r"line 2 .* Keep it and the file log\.jsonl\.head"):
        log.append("answered")


def test_what_threads_write_through_two_objects_is_one_chain(log: ChainedLog) -> None:
    other = ChainedLog(log.path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (log if n % 2 else other).append("signed in", user=f"user {n}"), range(20)))
    assert (log.verify().entries, log.verify().complaint) == (24, None)


def test_a_missing_mark_is_told(log: ChainedLog) -> None:
    log.mark.unlink()
    assert "is missing" in str(log.verify().complaint)


def test_a_log_that_can_not_be_written_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsegError, match=r"log\.jsonl could not be written"):
        ChainedLog(tmp_path / "file" / "log.jsonl").append("signed in")


def test_nothing_is_written_where_the_holder_decides_against_it(log: ChainedLog) -> None:
    before = log.path.read_bytes()
    with pytest.raises(ValueError, match="too much"), log.held():
        raise ValueError("too much")
    assert log.path.read_bytes() == before
