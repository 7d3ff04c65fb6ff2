"""The audit log only grows, and shows when a line was changed, dropped or moved."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from medseg.access.audit import AuditLog, check_chain
from medseg.errors import MedsegError


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path / "review" / "audit.jsonl")
    for number in range(6):
        log.record("volume read", "anna", file=f"case_{number} Ü" + "x" * 3000)
    return log


def test_lines_follow_from_one_another_and_say_who_did_what(log):
    found = check_chain(log.path)
    assert (found.lines, found.broken_at) == (6, None)
    entry = json.loads(log.path.read_text().splitlines()[2])
    assert entry["event"] == "volume read"
    assert entry["user"] == "anna"
    assert entry["file"].startswith("case_2")


def test_a_changed_line_breaks_the_chain_behind_it(log):
    log.path.write_text(log.path.read_text().replace("case_2", "case_9"))
    assert check_chain(log.path).broken_at == 4


def test_a_dropped_or_moved_line_breaks_the_chain(log):
    lines = log.path.read_text().splitlines(keepends=True)
    log.path.write_text("".join(lines[:2] + lines[3:]))
    assert check_chain(log.path).broken_at == 3
    log.path.write_text("".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    assert check_chain(log.path).broken_at == 3


def test_what_many_threads_write_is_one_chain(log):
    other = AuditLog(log.path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (log if n % 2 else other).record("signed in", f"user {n}"), range(20)))
    found = check_chain(log.path)
    assert (found.lines, found.broken_at) == (26, None)


def test_after_a_line_that_was_cut_by_a_power_cut_the_next_one_begins_anew_and_the_check_tells(log):
    log.path.write_bytes(log.path.read_bytes()[:-20])
    log.record("signed in", "ben")
    assert json.loads(log.path.read_text().splitlines()[-1])["user"] == "ben"
    assert check_chain(log.path).broken_at == 6


def test_a_log_that_can_not_be_written_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MedsegError, match=r"audit\.jsonl could not be written"):
        AuditLog(tmp_path / "file" / "audit.jsonl").record("signed in")
