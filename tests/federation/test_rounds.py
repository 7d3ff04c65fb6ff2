"""Rounds end whole, pause, or say who was missing; killed at any phase they end in the same bytes."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import SettingsError, SiteError
from medseg.federation.coordinator import final_weights, write_model
from medseg.federation.in_process import InProcess, Late
from medseg.federation.messages import Reply, hash_arrays
from medseg.federation.rounds import Clock, run_rounds
from medseg.federation.run_state import RoundPolicy, RunState
from medseg.federation.site import Site
from medseg.inference.bundle import open_model

from .conftest import begun


class Broken:
    """Sites of which some answer what they should not: by name a function from the true reply to what arrives."""

    def __init__(self, members: list[Site], broken: Mapping) -> None:
        self.true, self.broken, self.asked = InProcess(members), broken, []

    def sites(self):
        return self.true.sites()

    def exchange(self, requests, deadline_s, enough=None):
        self.asked.append(sorted(requests))
        replies = self.true.exchange(requests, deadline_s, enough)
        changed = {
            name: self.broken[name](reply) if name in self.broken and reply.action == "train" else reply
            for name, reply in replies.items()
        }
        return {name: reply for name, reply in changed.items() if reply is not None}


def _first(reply: Reply, change) -> Reply:
    name = min(reply.arrays)
    return replace(reply, arrays={**reply.arrays, name: change(np.array(reply.arrays[name]))})


_BAD = {
    "other-round": lambda reply: replace(reply, round=reply.round + 1),
    "other-plan": lambda reply: replace(reply, header={**reply.header, "plan_sha256": "0" * 64}),
    "other-weights": lambda reply: replace(reply, header={**reply.header, "weights_sha256": "0" * 64}),
    "not-finite": lambda reply: _first(reply, lambda a: np.full_like(a, np.nan)),
    "bad-update-shape": lambda reply: _first(reply, lambda a: a[..., None]),
    "bad-update-names": lambda reply: replace(reply, arrays={"delta.stranger": np.zeros(1, np.float32)}),
    "too-long": lambda reply: replace(reply, arrays={name: 1e6 + a for name, a in reply.arrays.items()}),
}


@pytest.mark.parametrize("code", _BAD)
def test_a_reply_that_can_not_be_used_costs_its_site_and_not_the_round(
    sites: list[Site], tmp_path: Path, code: str
) -> None:
    transport = Broken(sites, {"north": _BAD[code]})
    begun(transport, tmp_path / "R", policy=RoundPolicy(allow_missing=True, min_sites=2, grace=0, deadline=1), rounds=1)
    state = run_rounds(transport, tmp_path / "R")
    assert state.status == "completed-with-gaps"
    assert state.history[0].rejected == {"north": code}
    assert state.history[0].sites == ("east", "west")
    assert all(np.isfinite(array).all() for array in final_weights(tmp_path / "R").values())


def test_a_site_is_no_longer_asked_after_so_many_bad_replies(sites: list[Site], tmp_path: Path) -> None:
    transport = Broken(sites, {"north": _BAD["not-finite"]})
    policy = RoundPolicy(allow_missing=True, min_sites=2, most_rejections=2, grace=0, deadline=1)
    begun(transport, tmp_path / "R", policy=policy, rounds=3)
    state = run_rounds(transport, tmp_path / "R")
    assert state.quarantined == ("north",)
    assert transport.asked[-1] == ["east", "west"]


def test_without_leave_to_miss_a_site_the_run_pauses_and_says_who_is_missing(sites: list[Site], tmp_path: Path) -> None:
    begun(InProcess(sites), tmp_path / "R")
    state = run_rounds(Broken(sites, {"west": lambda reply: None}), tmp_path / "R")
    assert state.status == "paused"
    assert "west (no answer)" in state.reason
    assert state.round == 0
    resumed = run_rounds(InProcess(sites), tmp_path / "R")
    assert (resumed.status, resumed.round) == ("completed", 2)


def test_waiting_for_a_site_that_never_comes_ends_at_the_deadline(sites: list[Site], tmp_path: Path) -> None:
    begun(InProcess(sites), tmp_path / "R", policy=RoundPolicy(deadline=30, grace=5, retries=1))
    time = [0.0]
    clock = Clock(lambda: time[0], lambda seconds: time.__setitem__(0, time[0] + seconds))
    state = run_rounds(InProcess(sites[:2]), tmp_path / "R", clock=clock)
    assert state.status == "paused"
    assert 30 <= time[0] <= 61
    generous = state.model_copy(update={"policy": RoundPolicy(allow_missing=True, min_sites=2, deadline=30, grace=5)})
    generous.save(tmp_path / "R" / "run.json")
    time[0] = 0
    assert run_rounds(InProcess(sites[:2]), tmp_path / "R", clock=clock).status == "completed-with-gaps"
    assert time[0] <= 12  # two rounds, each with its grace


class _KilledError(Exception):
    pass


class Killed:
    """Sites that work until the coordinator dies: before the n-th asking, or after it."""

    def __init__(self, members: list[Site], at: int, before: bool) -> None:
        self.true, self.left, self.before = InProcess(members), at, before

    def sites(self):
        return self.true.sites()

    def exchange(self, requests, deadline_s, enough=None):
        self.left -= 1
        if self.left == 0 and self.before:
            raise _KilledError
        replies = self.true.exchange(requests, deadline_s, enough)
        if self.left == 0:
            raise _KilledError
        return replies


@pytest.fixture
def undisturbed(hospitals, tmp_path: Path) -> str:
    from .conftest import NAMES, make_site

    own = [make_site(name, hospitals[name], tmp_path / "undisturbed-sites" / name) for name in NAMES]
    begun(InProcess(own), tmp_path / "U", "fedavgm")
    run_rounds(InProcess(own), tmp_path / "U")
    return hash_arrays(final_weights(tmp_path / "U"))


@pytest.mark.parametrize("phase", ["before asking", "before joining", "while saving tensors", "while saving the state"])
def test_killed_at_any_phase_and_resumed_the_run_ends_in_the_same_bytes(
    sites: list[Site], tmp_path: Path, undisturbed: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(InProcess(sites), tmp_path / "R", "fedavgm")

    def die(*_: object) -> None:
        raise _KilledError

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        if phase == "while saving tensors":
            patch.setattr("medseg.federation.run_state.save_weights", die)
        elif phase == "while saving the state":
            patch.setattr(RunState, "save", die)
        at = 2 if phase.startswith("before") else 99
        run_rounds(Killed(sites, at, phase == "before asking"), tmp_path / "R")
    assert RunState.found(tmp_path / "R")[0].round == (0 if "saving" in phase else 1)
    state = run_rounds(InProcess(sites), tmp_path / "R")
    assert state.status == "completed"
    assert hash_arrays(final_weights(tmp_path / "R")) == undisturbed


def test_a_request_that_was_answered_gets_the_same_answer_without_training(
    sites: list[Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    class Recording(InProcess):
        def exchange(self, asked, deadline_s, enough=None):
            requests.append(asked["east"])
            return super().exchange(asked, deadline_s, enough)

    begun(Recording(sites), tmp_path / "R", rounds=1)
    run_rounds(Recording(sites), tmp_path / "R")
    first = sites[0].answer(requests[-1])
    monkeypatch.setattr("medseg.federation.site_train.train_portion", None)
    again = sites[0].answer(requests[-1])
    assert again.error is None
    assert again.to_bytes() == first.to_bytes()
    other = replace(requests[-1], arrays={name: a + 1 for name, a in requests[-1].arrays.items()})
    assert sites[0].answer(other).error == "failed"  # other weights would have to be trained on


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam", "scaffold", "personalised"])
def test_every_strategy_runs_to_its_end(sites: list[Site], tmp_path: Path, strategy) -> None:
    transport = InProcess(sites[:2])
    before = begun(transport, tmp_path / "R", strategy)
    first = final_weights(tmp_path / "R")
    state = run_rounds(transport, tmp_path / "R")
    assert (before.round, state.round, state.status) == (0, 2, "completed")
    assert hash_arrays(first) != hash_arrays(final_weights(tmp_path / "R"))
    assert state.history[1].dice.keys() == {"east", "north"}
    private = [name for name in first if ".norm." in name]
    if strategy == "personalised":
        assert not private
        assert write_model(tmp_path / "R") is None
    else:
        assert private
        path = write_model(tmp_path / "R")
        assert path is not None
        assert open_model(tmp_path / "R").weights["3d_fullres"] == {"full": path}


def test_robust_strategies_refuse_three_sites(sites: list[Site], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least 5 sites"):
        begun(InProcess(sites), tmp_path / "R", "median")


def test_a_late_site_is_merged_when_it_comes_and_nobody_waits(sites: list[Site], tmp_path: Path) -> None:
    transport = Late(InProcess(sites), {"west": 1})
    begun(transport, tmp_path / "R", "async", rounds=4)
    state = run_rounds(transport, tmp_path / "R")
    assert state.status == "completed"
    assert [record.sites for record in state.history] == [
        ("east", "north"),
        ("east", "north", "west"),
        ("east", "north"),
        ("east", "north", "west"),
    ]
    assert [record.ages for record in state.history] == [{}, {"west": 1}, {}, {"west": 1}]


@pytest.mark.parametrize("compression", ["fp16", "int8"])
def test_compressed_changes_lead_to_nearly_the_same_model(
    hospitals, sites: list[Site], tmp_path: Path, compression: str
) -> None:
    begun(InProcess(sites[:2]), tmp_path / "R", compression=compression)
    small = run_rounds(InProcess(sites[:2]), tmp_path / "R")
    full_sites = [replace(site, folder=tmp_path / "full" / site.name) for site in sites[:2]]
    begun(InProcess(full_sites), tmp_path / "F")
    full = run_rounds(InProcess(full_sites), tmp_path / "F")
    assert small.history[1].bytes_up < 0.8 * full.history[1].bytes_up  # a tiny network's messages are half header
    ours, theirs = final_weights(tmp_path / "R"), final_weights(tmp_path / "F")
    moved = sum(float(np.abs(theirs[name] - ours[name]).sum()) for name in ours) / sum(a.size for a in ours.values())
    assert moved < 1e-3


def test_a_site_with_other_labels_is_named_with_its_code(sites: list[Site], tmp_path: Path) -> None:
    from medseg.federation.coordinator import begin_run

    from tiny import table_named, tiny_plan

    with pytest.raises(SiteError, match=r"east \(other-labels\)"):
        begin_run(InProcess(sites), tmp_path / "R", "run", tiny_plan(), table_named("ball", "cube"), ["east"])


_COORDINATOR = """
import sys
from pathlib import Path
from medseg.federation.in_process import InProcess
from medseg.federation.policy import SitePolicy
from medseg.federation.rounds import run_rounds
from medseg.federation.site import Site
folder, names = Path(sys.argv[1]), sys.argv[2:]
policy = SitePolicy(min_count=1)
pairs = [name.split("=") for name in names]
sites = [Site(name, Path(dataset), folder / "sites" / name, policy, "cpu") for name, dataset in pairs]
sys.exit(0 if run_rounds(InProcess(sites), folder / "R").status == "completed" else 1)
"""


@pytest.mark.slow
def test_a_coordinator_killed_by_the_system_goes_on_to_the_same_bytes(hospitals, tmp_path: Path) -> None:
    from .conftest import NAMES, make_site

    ends = []
    for kind in ("undisturbed", "killed"):
        folder = tmp_path / kind
        own = [make_site(name, hospitals[name], folder / "sites" / name) for name in NAMES]
        begun(InProcess(own), folder / "R", "fedavgm", rounds=12, policy=RoundPolicy(deadline=60, grace=0, retries=0))
        # Processes of their own: what other tests have set in this one, such as threads, changes the rounding.
        datasets = [f"{name}={hospitals[name] / 'dataset.yaml'}" for name in NAMES]
        words = [sys.executable, "-c", _COORDINATOR, str(folder), *datasets]
        if kind == "killed":
            process = subprocess.Popen(words)
            until = time.monotonic() + 120
            while RunState.found(folder / "R")[0].round < 3 and time.monotonic() < until:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert 3 <= RunState.found(folder / "R")[0].round < 12
        subprocess.run(words, check=True)
        ends.append(hash_arrays(final_weights(folder / "R")))
    assert ends[0] == ends[1]
