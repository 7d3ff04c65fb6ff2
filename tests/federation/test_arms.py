"""A comparison trains every arm and tells what each model is worth at every hospital."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.cases.dataset import Dataset
from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.errors import SettingsError, SiteError
from medseg.federation.arms import POOLED, Arms, compare_arms
from medseg.federation.comparison import Cell, Comparison, Row, cost_rows, local_row, matrix_rows
from medseg.federation.coordinator import final_weights
from medseg.federation.hospitals import LEFT_OUT, drawn_in_style, hospital_names, pool, split_dataset, write_hospitals
from medseg.federation.in_process import InProcess
from medseg.federation.messages import hash_arrays
from medseg.federation.picture import draw_comparison
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy
from medseg.federation.site import Site
from medseg.inference.bundle import open_model

from .conftest import begun, make_site
from tiny import TABLE, tiny_plan, write_tiny_dataset


@pytest.fixture
def arms(hospitals: dict[str, Path], sites: list[Site], tmp_path: Path) -> Arms:
    pool(
        {name: path / "dataset.yaml" for name, path in hospitals.items()},
        ["east", "north"],
        tmp_path / "all/dataset.yaml",
    )
    return Arms(
        sites=sites[:2],
        left_out=make_site("west", hospitals["west"], tmp_path / "outside", actions=("prepare", "evaluate")),
        pooled=make_site(POOLED, tmp_path / "all", tmp_path / "pooled"),
        plan=tiny_plan(),
        table=TABLE,
        folder=tmp_path / "runs",
        settings=RunSettings(rounds=1, steps=1),
    )


def test_sites_alone_and_a_strategy_stand_in_one_matrix(arms: Arms) -> None:
    comparison, _ = compare_arms(replace(arms, pooled=None), ["personalised"], ["local"])
    assert [(row.model, sorted(row.cells)) for row in comparison.rows] == [
        ("local", ["east", "north", "west"]),
        ("personalised", ["east", "north"]),  # no private part completes a network where nobody trained
    ]


@pytest.mark.slow
def test_every_arm_is_trained_and_scored_at_every_site_and_where_nobody_trained(arms: Arms, tmp_path: Path) -> None:
    comparison, courses = compare_arms(arms, ["fedavg", "personalised"])
    assert [row.model for row in comparison.rows] == ["local", "ensemble", "fedavg", "personalised", "centralised"]
    assert [row.model for row in comparison.local] == ["local east", "local north"]
    for row in (*comparison.rows, *comparison.local):
        expected = {"east", "north"} if row.model == "personalised" else {"east", "north", "west"}
        assert set(row.cells) == expected, row.model  # no private part completes a network where nobody trained
    assert comparison.row("local").cells["east"] == comparison.local[0].cells["east"]
    assert comparison.row("fedavg").bytes_up > 0
    assert courses["fedavg"][-1] == comparison.row("fedavg").mean(["east", "north"])
    assert open_model(tmp_path / "runs" / "fedavg").weights["3d_fullres"]
    comparison.save(tmp_path / "comparison.json")
    assert Comparison.load(tmp_path / "comparison.json") == comparison
    titles, rows = matrix_rows(comparison)
    assert titles == ["model", "east (n=1)", "north (n=1)", "west (n=5)"]
    assert [row[3] for row in rows if row[0] == "personalised"] == ["-"]
    draw_comparison(tmp_path / "comparison.png", comparison, courses)
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_site_that_can_not_train_ends_the_comparison_with_its_code(arms: Arms, tmp_path: Path) -> None:
    refusing = replace(
        arms.sites[0], policy=arms.sites[0].policy.model_copy(update={"actions": ("prepare", "evaluate")})
    )
    with pytest.raises(SiteError, match=r"declared no number of cases|not-allowed"):
        compare_arms(replace(arms, sites=[refusing, arms.sites[1]]), ["fedavg"], [])


def test_the_local_row_is_each_site_with_its_own_model_and_outside_their_mean() -> None:
    rows = {
        "a": Row(
            model="local a",
            cells={"a": Cell(cases=5, dice=0.8), "b": Cell(cases=5, dice=0.1), "out": Cell(cases=6, dice=0.5)},
        ),
        "b": Row(
            model="local b",
            cells={"a": Cell(cases=5, dice=0.2), "b": Cell(cases=5, dice=0.6), "out": Cell(cases=6, dice=0.7)},
        ),
    }
    row = local_row(rows, "out")
    assert {site: cell.dice for site, cell in row.cells.items()} == {"a": 0.8, "b": 0.6, "out": pytest.approx(0.6)}
    comparison = Comparison(sites=("a", "b"), left_out="out", budget="", rows=(row,))
    assert cost_rows(comparison)[1][0][:5] == ["local", "0.700", "0.600", "0.100", "0.600"]


def test_an_annotator_draws_larger_or_smaller_in_each_slice_alone() -> None:
    labels = np.zeros((3, 9, 9), np.uint8)
    labels[1, 3:6, 3:6] = 2
    assert (drawn_in_style(labels, 1) == 2).sum() == 25
    assert (drawn_in_style(labels, -1) == 2).sum() == 1
    assert not drawn_in_style(labels, 1)[0].any()
    assert set(np.unique(drawn_in_style(labels, -1))) == {0, 2}


def test_a_dataset_is_dealt_to_unequal_hospitals_and_no_patient_to_two(tmp_path: Path) -> None:
    tiny = write_tiny_dataset(tmp_path / "data", 1).cases[0]
    cases = tuple(replace(tiny, name=f"case_{i:02d}", patient=f"patient {i // 2}") for i in range(60))
    found = split_dataset(Dataset("all", ("MR",), TABLE, cases), tmp_path / "split", 2, 1)
    read = {name: read_dataset(path) for name, path in found.items()}
    sizes = [len(read[name].cases) for name in (*hospital_names(2), LEFT_OUT)]
    assert sizes[0] > sizes[1] >= 5
    assert all(len(read[name].test) >= 5 for name in hospital_names(2))
    assert read[LEFT_OUT].cases and not read[LEFT_OUT].test
    patients = [{case.patient for case in (*one.cases, *one.test)} for one in read.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 30
    with pytest.raises(SettingsError, match="too few for 9 hospitals"):
        split_dataset(Dataset("all", ("MR",), TABLE, cases), tmp_path / "nine", 9, 1)


@pytest.mark.slow
def test_phantom_hospitals_are_unlike_and_the_same_each_time(tmp_path: Path) -> None:
    first, again = (write_hospitals(tmp_path / part, 2, 1) for part in ("a", "b"))
    assert set(first) == {"north", "east", LEFT_OUT}
    for name in first:
        one, other = read_dataset(first[name]), read_dataset(again[name])
        assert one.labels.names == ("liver", "spleen", "spine")
        pairs = zip((*one.cases, *one.test), (*other.cases, *other.test), strict=True)
        assert all(a.images[0].read_bytes() == b.images[0].read_bytes() for a, b in pairs)


@pytest.mark.slow
def test_the_command_ends_with_tables_a_picture_and_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sites=2", "rounds=2", "steps=1", "strategy=async", "baselines=false", "device=cpu"]
    assert main(["federated", "simulate", *words]) == 0
    shown = capsys.readouterr().out
    assert "fedavg" in shown and "async" in shown and "elsewhere" in shown
    assert (tmp_path / "runs/federated/comparison.png").is_file()
    assert open_model(tmp_path / "runs/federated/runs/fedavg")
    assert main(["federated", "simulate", "sites=3", "strategy=trimmed"]) == 2
    assert main(["federated", "simulate", "late=[north]", "strategy=fedavg"]) == 2


def test_protection_that_can_not_be_given_is_refused_before_a_hospital_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["federated", "simulate", "sites=2", "secure_aggregation=true"]) == 2
    assert "at least 3 sites" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


_ON_ENGINE = """
import sys
from pathlib import Path
from medseg.federation.engines import engine_named
from medseg.federation.policy import SitePolicy
from medseg.federation.rounds import run_rounds
from medseg.federation.site import Site
engine, folder, pairs = sys.argv[1], Path(sys.argv[2]), [pair.split("=") for pair in sys.argv[3:]]
policy = SitePolicy(min_count=1)
sites = [Site(name, Path(data), folder / "sites" / name, policy, "cpu") for name, data in pairs]
print(run_rounds(engine_named(engine)(sites), folder / "R").status)
"""


@pytest.mark.deploy
def test_ray_ends_in_the_bytes_of_one_process(hospitals: dict[str, Path], tmp_path: Path) -> None:
    ends = []
    for kind in ("process", "ray"):
        folder, names = tmp_path / kind, ("east", "west")
        own = [make_site(name, hospitals[name], folder / "sites" / name) for name in names]
        begun(InProcess(own), folder / "R", policy=RoundPolicy(deadline=120, grace=0))
        # In a process of its own: Ray leaves pipes open, and gives each site one thread, on which bytes depend.
        pairs = [f"{name}={hospitals[name] / 'dataset.yaml'}" for name in names]
        words = [sys.executable, "-W", "ignore", "-c", _ON_ENGINE, kind, str(folder), *pairs]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300, env=alone)
        assert done.stdout.strip().endswith("completed")
        ends.append(hash_arrays(final_weights(folder / "R")))
    assert ends[0] == ends[1]
