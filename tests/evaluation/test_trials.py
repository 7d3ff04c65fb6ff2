"""Choices trained alike: means over seeds, paired differences, p-values corrected together."""

import numpy as np
import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.evaluation.comparison import holm
from medseg.evaluation.metrics import score_case
from medseg.evaluation.scores import summarise
from medseg.evaluation.trial_pictures import draw_trials
from medseg.evaluation.trials import (
    METRICS,
    Trial,
    Trials,
    compare_metric,
    cost_rows,
    quality_rows,
    write_table,
    write_trials,
)

TABLE = LabelTable(labels=(Label(name="background", value=0), Label(name="ball", value=1)))


def scores_of(seed, errors, cases=12):
    """Scores of cases in which so many slices of a cube are wrong, give or take one."""
    found = []
    for index in range(cases):
        random = np.random.default_rng(100 * index + seed)
        truth = np.zeros((12, 12, 12), np.uint8)
        truth[2:10, 2:10, 2:10] = 1
        predicted = truth.copy()
        predicted[2 : 2 + errors + int(random.integers(0, 2)), 2:10, 2:10] = 0
        found.append(score_case(predicted, truth, (1.0, 1.0, 1.0), TABLE, case=f"case_{index:02d}"))
    return summarise(found)


def trials():
    scores = {"good": [scores_of(1, 1), scores_of(2, 1)], "bad": [scores_of(1, 3), scores_of(2, 3)]}
    metrics = {metric: compare_metric(scores, metric, "bad") for metric in METRICS}
    found = [
        Trial(
            name=name,
            metrics={metric: one[name] for metric, one in metrics.items()},
            seeds={seed: one.mean_dice for seed, one in enumerate(seeds, start=1)},
            ece=0.1,
            parameters=1000,
            cpu_seconds_per_iteration=0.5,
            seconds_per_iteration=0.6,
            seconds_per_case=0.2,
            iterations={1: 10, 2: 10},
        )
        for name, seeds in scores.items()
    ]
    return scores, Trials(
        compared="networks",
        configuration="3d_fullres",
        fold=0,
        reference="bad",
        cases=tuple(case.case for case in scores["good"][0].cases),
        device="cpu",
        budget="10 iterations",
        trials=tuple(found),
    )


def test_cases_are_averaged_over_seeds_before_they_are_compared():
    scores, found = trials()
    good = found.trials[0].metrics["dice"]
    assert good.dice == pytest.approx(np.mean([one.mean_dice for one in scores["good"]]))
    assert good.difference == pytest.approx(good.dice - found.trials[1].metrics["dice"].dice)
    assert good.difference_low < good.difference < good.difference_high
    assert good.is_better_than_chance
    assert found.trials[0].metrics["hd95_mm"].difference < 0
    assert found.trials[1].metrics["dice"].p_value is None


def test_holm_corrects_for_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_table_csv_and_picture_show_every_choice(tmp_path):
    _, found = trials()
    columns, rows = quality_rows(found)
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][0] == "good"
    assert rows[0][2].startswith("+0.")
    assert rows[1][2] == "-"
    write_trials(tmp_path / "one.csv", found)
    assert (tmp_path / "one.csv").read_text().splitlines()[1].startswith("good,0.")
    draw_trials(tmp_path / "one.png", found)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    found.save(tmp_path / "one.json")
    assert Trials.load(tmp_path / "one.json") == found


def test_costs_are_a_table_of_their_own_and_both_are_one_in_markdown(tmp_path):
    _, found = trials()
    columns, rows = cost_rows(found)
    assert all(len(row) == len(columns) for row in rows)
    assert [row[columns.index("iterations")] for row in rows] == ["10", "10"]
    write_table(tmp_path / "table.md", found)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.count("|") for line in lines] == [len(columns) + len(quality_rows(found)[0])] * 4
    assert lines[1].strip("| ").startswith("---")
    assert lines[2].startswith("| good |")
