"""Reviews are appended, never changed, and leave as CSV that no spreadsheet executes."""

import csv
import io
import sqlite3
from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.review.case import ReviewCase
from medseg.review.records import Review, ReviewLog
from medseg.review.worklist import neighbour, worklist
from medseg.uncertainty.summary import CaseUncertainty


def review(case: str = "a", **more: object) -> Review:
    given = {"finding": "f", "labels": "0" * 64, "status": "accepted", "difficulty": "easy", "reviewer": "Dr X", **more}
    return Review.model_validate({"case": case, **given})


def test_the_last_review_of_a_case_counts_and_the_earlier_ones_stay(tmp_path: Path) -> None:
    log = ReviewLog(tmp_path / "state/reviews.sqlite")
    assert log.all() == []
    log.add(review(status="rejected", comment="leaks into the vessel"))
    log.add(review("b"))
    last = log.add(review())
    assert [one.status for one in log.all("a")] == ["rejected", "accepted"]
    assert log.last()["a"] == last
    assert last.time.endswith("+00:00")


def test_the_database_itself_refuses_to_change_or_delete_a_review(tmp_path: Path) -> None:
    log = ReviewLog(tmp_path / "reviews.sqlite")
    log.add(review())
    database = sqlite3.connect(tmp_path / "reviews.sqlite")
    for statement in ("UPDATE reviews SET status = 'rejected'", "DELETE FROM reviews"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            database.execute(statement)
    database.close()
    assert log.all()[0].status == "accepted"


def test_a_review_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match="name of its reviewer"):
        ReviewLog(tmp_path / "reviews.sqlite").add(review(reviewer="  "))


def test_words_that_look_like_sql_or_a_formula_are_words(tmp_path: Path) -> None:
    log = ReviewLog(tmp_path / "reviews.sqlite")
    log.add(review(comment="'); DROP TABLE reviews; --"))
    log.add(review(comment='=HYPERLINK("http://evil")'))
    rows = list(csv.DictReader(io.StringIO(log.csv())))
    assert rows[0]["comment"] == "'); DROP TABLE reviews; --"
    assert rows[1]["comment"].startswith("'=")
    log.export(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == log.csv()


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "reviews.sqlite").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(MedsegError, match="can't be used"):
        ReviewLog(tmp_path / "reviews.sqlite").all()


def asked(name: str, score: float | None) -> ReviewCase:
    from medseg.cases.labels import LabelTable
    from medseg.review.case import Finding

    doubt = None if score is None else CaseUncertainty(case=name, review_score=score, structures=())
    return ReviewCase(name, (), ("MR",), (Finding("f", Path("x"), LabelTable(labels=()), uncertainty=doubt),))


def test_the_least_sure_case_comes_first_and_those_nobody_asked_about_last() -> None:
    cases = [asked("a", 0.1), asked("b", None), asked("c", 0.9), asked("d", 0.0)]
    assert [row.case.name for row in worklist(cases, {})] == ["c", "a", "d", "b"]
    assert [row.case.name for row in worklist(cases, {}, order="name")] == ["a", "b", "c", "d"]


def test_words_and_status_choose_among_the_cases() -> None:
    cases = [asked("liver_1", 0.1), asked("liver_2", 0.2), asked("lung_1", 0.3)]
    reviews = {"liver_1": review("liver_1", comment="Cyst left out"), "lung_1": review("lung_1", status="rejected")}
    assert [row.case.name for row in worklist(cases, reviews, "CYST liver")] == ["liver_1"]
    assert [row.case.name for row in worklist(cases, reviews, status="open")] == ["liver_2"]
    assert [row.case.name for row in worklist(cases, reviews, status="rejected")] == ["lung_1"]


def test_the_next_case_ends_at_the_end_of_the_list() -> None:
    rows = worklist([asked("a", 0.9), asked("b", 0.5)], {})
    assert [neighbour(rows, "a", 1), neighbour(rows, "b", 1), neighbour(rows, "a", -1)] == ["b", "b", "a"]
    assert neighbour(rows, "gone", 1) == "a"
