"""Means, counts and intervals over cases, and the files they are written to."""

import csv

import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.evaluation.bootstrap import interval, resampled_means
from medseg.evaluation.scores import Scores, as_rows, rank_cases, score_case, summarise, write_csv

from tiny import table_named

TABLE = table_named("liver", "lesion")


def make_case(name, shift=0, lesion="both"):
    truth = np.zeros((10, 12, 14), np.uint8)
    truth[2:8, 2:8, 2:6] = 1
    prediction = np.roll(truth, shift, axis=1)
    for labels, wanted in ((truth, ("both", "missed")), (prediction, ("both", "false alarm"))):
        if lesion in wanted:
            labels[3:5, 3:6, 9:12] = 2
    return score_case(prediction, truth, (2.0, 1.0, 1.0), TABLE, case=name)


@pytest.fixture
def scores():
    return summarise(
        [
            make_case("a"),
            make_case("b", 1),
            make_case("c", 2, "absent"),
            make_case("d", 1, "missed"),
            make_case("e", 3, "false alarm"),
        ]
    )


def test_missing_structures_are_counted_apart_from_zero(scores):
    liver, lesion = scores.structures
    assert (liver.n_scored, liver.n_absent, liver.n_missed, liver.n_false_alarm) == (5, 0, 0, 0)
    assert (lesion.n_scored, lesion.n_absent, lesion.n_missed, lesion.n_false_alarm) == (2, 1, 1, 1)
    assert lesion.metrics["dice"].n == 4
    assert lesion.metrics["dice"].mean == pytest.approx(0.5)
    assert lesion.metrics["hd95_mm"].n == 2


def test_the_mean_is_over_structures_of_the_mean_over_cases(scores):
    by_structure = [structure.metrics["dice"].mean for structure in scores.structures]
    assert scores.mean_dice == pytest.approx(np.mean(by_structure))
    assert scores.average["dice"].structures == 2


def test_mean_median_and_spread_are_those_of_numpy(scores):
    values = [case.structures[0].dice for case in scores.cases]
    dice = scores.structures[0].metrics["dice"]
    assert (dice.mean, dice.median) == pytest.approx((np.mean(values), np.median(values)))
    assert dice.std == pytest.approx(np.std(values, ddof=1))
    assert dice.low < dice.mean < dice.high


def test_a_structure_that_is_nowhere_spoils_no_mean():
    empty = [make_case("a", lesion="absent"), make_case("b", 1, lesion="absent")]
    scores = summarise(empty)
    assert scores.structures[1].metrics == {}
    assert scores.mean_dice == scores.structures[0].metrics["dice"].mean
    assert as_rows(scores)[1][1] == ["lesion", "-", "-", "-", "0", "2 absent in both"]


def test_one_case_has_no_interval():
    dice = summarise([make_case("a", 1)]).structures[0].metrics["dice"]
    assert (dice.n, dice.std, dice.low, dice.high) == (1, None, None, None)


def test_intervals_are_the_same_every_time_and_equal_plain_resampling():
    values = np.random.default_rng(1).normal(0.8, 0.1, 30)
    low, high = interval(resampled_means(values[:, None])[:, 0])
    assert (low, high) == interval(resampled_means(values[:, None])[:, 0])
    random = np.random.default_rng(7)
    plain = [random.choice(values, 30).mean() for _ in range(4000)]
    assert (low, high) == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.005)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    hits = 0
    for seed in range(150):
        values = np.random.default_rng(seed).normal(0.8, 0.1, 40)
        low, high = interval(resampled_means(values[:, None])[:, 0])
        hits += low <= 0.8 <= high
    assert 0.87 < hits / 150 < 0.99


def test_a_draw_without_any_value_is_left_out():
    values = np.array([[0.5], [np.nan], [np.nan]])
    assert interval(resampled_means(values)[:, 0]) == (0.5, 0.5)
    assert interval(resampled_means(np.full((3, 1), np.nan))[:, 0]) is None


def test_scores_survive_a_round_trip_and_say_null_where_there_is_no_number(scores, tmp_path):
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json") == scores
    text = (tmp_path / "scores.json").read_text()
    assert text.startswith('{\n "kind": "scores",\n "format": 1')
    assert '"hd95_mm": null' in text
    assert "NaN" not in text


def test_the_csv_has_one_row_for_each_case_and_structure(scores, tmp_path):
    write_csv(tmp_path / "scores.csv", scores)
    with (tmp_path / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["structure"]) for row in rows] == [(c, s) for c in "abcde" for s in TABLE.names]
    missed = rows[7]
    assert (missed["status"], float(missed["dice"]), missed["hd95_mm"]) == ("missed", 0, "")
    assert float(rows[0]["dice"]) == scores.cases[0].structures[0].dice


def test_the_table_tells_interval_count_and_remarks(scores):
    columns, rows = as_rows(scores)
    assert columns[3] == "NSD at 1 mm"
    assert [row[0] for row in rows] == ["liver", "lesion", "mean"]
    assert rows[1][5] == "1 missed, 1 false alarm, 1 absent in both"
    assert "[" in rows[0][1]


def test_cases_are_ranked_from_the_worst(scores):
    assert [case.case for case in rank_cases(scores)][-1] == "a"
    assert rank_cases(scores)[0].case == "e"


def test_nothing_to_summarise_is_an_error():
    with pytest.raises(MedsegError, match="No case was scored"):
        summarise([])


def test_cases_with_other_structures_or_tolerance_are_not_pooled():
    labels = np.ones((3, 3, 3), np.uint8)
    first = score_case(labels, labels, (1.0, 1.0, 1.0), table_named("one"))
    for other in (
        score_case(labels, labels, (1.0, 1.0, 1.0), table_named("two")),
        score_case(labels, labels, (1.0, 1.0, 1.0), table_named("one"), tolerance_mm=2.0),
    ):
        with pytest.raises(MedsegError, match="can't be pooled"):
            summarise([first, other])
