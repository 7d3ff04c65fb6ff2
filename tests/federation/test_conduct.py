"""A run follows its order, says how it ended, and is done by one process at a time."""

import fcntl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from medseg.errors import MedsegError
from medseg.evaluation.scores import Scores
from medseg.federation.comparison import Comparison
from medseg.federation.conduct import (
    PlanOrder,
    RunOrder,
    RunResult,
    comparison_file,
    conduct,
    is_under_way,
    order_file,
    order_place,
    result_file,
    write_order,
)
from medseg.federation.in_process import InProcess
from medseg.federation.messages import Reply, Request
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy, RunState
from medseg.federation.site import Site
from medseg.federation.start import choose_start
from medseg.files import hash_file
from medseg.networks.weights import load_weights, save_weights
from medseg.planning.plan import Plan

from tiny import TABLE, tiny_plan


def _ordered(folder: Path, sites: list[Site], **policy: object) -> Path:
    order = RunOrder(
        run="run-1",
        sites=tuple(site.name for site in sites),
        strategy="fedavg",
        settings=RunSettings(rounds=2, steps=1),
        policy=RoundPolicy.model_validate({"deadline": 1, "grace": 0, "retries": 0, **policy}),
    )
    write_order(folder, order, tiny_plan(), TABLE)
    return folder


class Leaving(InProcess):
    """Sites of which one is gone after it has trained for so many rounds."""

    left_after = 0

    def exchange(self, requests: Mapping[str, Request], *more: object, **others: object) -> dict[str, Reply]:
        kept = {n: r for n, r in requests.items() if n != self.members[0].name or r.round <= self.left_after}
        return super().exchange(kept, 1)


def test_a_run_ends_with_a_model_and_its_hashes(sites: list[Site], tmp_path: Path) -> None:
    folder = _ordered(tmp_path / "run", sites)
    result = conduct(InProcess(sites), folder)
    assert (result.status, result.rounds, result.reason) == ("completed", 2, "")
    assert hash_file(folder / result.model) == result.model_sha256
    assert RunResult.load(result_file(folder)) == result


def test_whether_a_run_is_under_way_is_seen_from_outside(sites: list[Site], tmp_path: Path) -> None:
    seen = []

    class Watched(InProcess):
        def exchange(self, *asked: Any, **more: Any) -> dict[str, Reply]:
            seen.append(is_under_way(folder))
            return super().exchange(*asked, **more)

    folder = _ordered(tmp_path / "run", sites)
    assert not is_under_way(folder)
    conduct(Watched(sites), folder)
    assert seen
    assert all(seen)
    assert not is_under_way(folder)


def test_a_run_ends_with_its_score_at_every_site_that_tells_one(sites: list[Site], tmp_path: Path) -> None:
    silent = replace(sites[0], policy=sites[0].policy.model_copy(update={"actions": ("prepare", "train")}))
    folder = _ordered(tmp_path / "run", sites)
    assert conduct(InProcess([silent, *sites[1:]]), folder).status == "completed"
    (row,) = Comparison.load(comparison_file(folder)).rows
    assert set(row.cells) == {site.name for site in sites[1:]}
    for site in sites[1:]:
        own = Scores.load(site.folder / "runs" / "run-1" / "scores.json")
        assert row.cells[site.name].dice == pytest.approx(own.average["dice"].mean, abs=1e-4)
        assert row.cells[site.name].cases == len(own.cases)


def test_a_run_begins_with_a_trained_model_and_not_with_another_of_the_same_name(
    sites: list[Site], tmp_path: Path
) -> None:
    trained = _ordered(tmp_path / "trained", sites)
    before = conduct(InProcess(sites), trained)
    start = choose_start(trained)
    names = {site.name for site in sites}
    fresh = [replace(site, folder=tmp_path / "fresh" / site.name) for site in sites]
    order = RunOrder.load(order_file(trained)).model_copy(update={"start": start, "run": "run-2"})
    write_order(tmp_path / "second", order, tiny_plan(), TABLE)
    assert conduct(InProcess(fresh), tmp_path / "second").status == "completed"
    state = RunState.load(tmp_path / "second" / "run.json")
    assert (state.start, set(state.cases)) == (before.weights, names)
    write_order(tmp_path / "third", order, tiny_plan(), TABLE)
    save_weights(trained / before.model, *load_weights_doubled(trained / before.model))
    changed = conduct(InProcess(fresh), tmp_path / "third")
    assert changed.status == "failed"
    assert "its weights have changed" in changed.reason


def load_weights_doubled(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state, description = load_weights(path)
    return {name: 2 * tensor for name, tensor in state.items()}, description


def test_a_paused_run_goes_on_and_ends_as_if_nothing_had_happened(sites: list[Site], tmp_path: Path) -> None:
    whole = conduct(InProcess(sites), _ordered(tmp_path / "whole", sites))
    folder = _ordered(tmp_path / "run", sites)
    (tmp_path / "others").mkdir()
    fresh = [Site(site.name, site.dataset, tmp_path / "others" / site.name, site.policy, "cpu") for site in sites]
    leaving = Leaving(fresh)
    leaving.left_after = 1
    paused = conduct(leaving, folder)
    assert (paused.status, paused.rounds) == ("paused", 1)
    assert sites[0].name in paused.reason
    resumed = conduct(InProcess(fresh), folder)
    assert (resumed.status, resumed.weights) == ("completed", whole.weights)


def test_what_can_not_be_begun_is_a_failed_run_that_says_why(sites: list[Site], tmp_path: Path) -> None:
    poor = Site(sites[0].name, tmp_path / "nowhere", tmp_path / "poor", sites[0].policy)
    result = conduct(InProcess([poor, *sites[1:]]), _ordered(tmp_path / "run", sites))
    assert (result.status, result.rounds, result.weights) == ("failed", 0, "")
    assert f"{poor.name} (dataset-error)" in result.reason
    assert "nowhere" not in result.reason


def test_without_a_plan_one_is_made_from_the_sites_histograms_and_then_kept(sites: list[Site], tmp_path: Path) -> None:
    order = RunOrder(
        run="run-1",
        sites=tuple(site.name for site in sites),
        strategy="fedavg",
        settings=RunSettings(rounds=1, steps=1),
        policy=RoundPolicy(deadline=1, grace=0, retries=0),
        planning=PlanOrder(channels=("MR",), preset="default", seconds=1),
    )
    folder = tmp_path / "run"
    write_order(folder, order, None, TABLE)
    assert not order_place(folder).plan.exists()
    assert conduct(InProcess([]), folder).status == "failed"  # nobody is there to be asked
    result = conduct(InProcess(sites), folder)
    assert (result.status, result.reason) == ("completed", "")
    assert '"pooled": 12' in order_place(folder).fingerprint.read_text()
    assert Plan.load(order_place(folder).plan).content_hash() == RunState.load(folder / "run.json").plan_sha256


def test_a_run_is_done_by_one_process_at_a_time(sites: list[Site], tmp_path: Path) -> None:
    folder = _ordered(tmp_path / "run", sites)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(MedsegError, match="Another process"):
            conduct(InProcess(sites), folder)
    assert not result_file(folder).exists()


def test_an_order_is_written_once(sites: list[Site], tmp_path: Path) -> None:
    folder = _ordered(tmp_path / "run", sites)
    before = order_file(folder).read_bytes()
    with pytest.raises(MedsegError, match="there already"):
        _ordered(folder, sites[1:])
    assert order_file(folder).read_bytes() == before
