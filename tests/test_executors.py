"""Work is done here or on a cluster, and what a node drops is done elsewhere."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.cli import main
from medseg.errors import MedsegError, SettingsError
from medseg.executors import ATTEMPTS, RayCluster, Threads
from medseg.images.formats import read_labels

from tiny import write_tiny_workspace


def halved(number: int) -> float:
    if number < 0:
        raise MedsegError(f"{number} is negative.")
    return 10 / number


@pytest.mark.parametrize("count", [1, 3])
def test_a_failure_is_a_sentence_that_stops_nothing(count: int):
    found = {one.item: one for one in Threads(count)(halved, [5, -1, 0, 2])}
    assert (found[5].result, found[5].error, found[2].result) == (2.0, None, 5.0)
    assert (found[-1].error, found[-1].fault) == ("-1 is negative.", None)
    assert found[0].error == "ZeroDivisionError: division by zero"
    assert isinstance(found[0].fault, ZeroDivisionError)


def test_what_has_not_begun_is_given_up_where_the_caller_stops():
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        # Long enough that the caller has its turn before the thousandth, on any machine.
        time.sleep(0.05)

    for finished in Threads(1)(work, range(1000)):
        assert finished.error is None
        break
    assert len(begun) < 1000


PATH = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": PATH,
    "PYTHONWARNINGS": "ignore",
    # A node on this machine starts as few processes as it can do with; that one is dead is known within seconds.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
}


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


class Cluster:
    """A head without processors and two workers with one each, on this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self._nodes, self._folder = f"127.0.0.1:{port}", [], folder
        self._start("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats")
        self.workers = [self.add_worker(), self.add_worker()]

    def add_worker(self) -> subprocess.Popen:
        return self._start(f"--address={self.address}", "--num-cpus=1", "--disable-usage-stats")

    def _start(self, *words: str) -> subprocess.Popen:
        ray = Path(sys.executable).with_name("ray")
        command = [
            str(ray),
            "start",
            *words,
            "--block",
            "--object-store-memory=80000000",
            "--node-ip-address=127.0.0.1",
        ]
        path = self._folder / f"ray_{len(self._nodes)}.log"
        with path.open("wb") as log:
            node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT)
        self._nodes.append(node)
        # One after the other: of two that begin at once on one machine, one may never be registered.
        wait_for(lambda: "Ray runtime started" in path.read_text() or node.poll() is not None)
        assert node.poll() is None, path.read_text()
        return node

    def kill(self, node: subprocess.Popen) -> None:
        """The whole node at once, as when a machine loses power."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        for node in self._nodes:
            if node.poll() is None:
                self.kill(node)


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.stop()


DRIVER = """
import json, sys
from medseg.executors import RayCluster
from test_executors import slow_or_broken
done = RayCluster(sys.argv[1])(slow_or_broken, json.loads(sys.argv[2]))
print(json.dumps({one.item[0]: [one.result, one.error, one.attempts] for one in done}))
"""


def slow_or_broken(item: tuple[str, str]) -> str:
    """Waits a moment; refuses, breaks, or breaks on its first node alone, which it marks in a folder."""
    name, folder = item
    Path(folder, f"{name}_{time.time_ns()}").touch()
    if name == "refused":
        raise MedsegError("no such thing")
    if name == "broken":
        raise OSError("disk")
    if name == "unlucky" and len([*Path(folder).glob("unlucky_*")]) == 1:
        raise OSError("the first node's disk")
    time.sleep(3 if name.startswith("slow") else 0.1)
    return name.upper()


@pytest.mark.deploy
def test_on_a_cluster_from_which_a_node_is_killed_everything_is_done_elsewhere(tmp_path, cluster):
    marks = tmp_path / "marks"
    marks.mkdir()
    names = ["slow_1", "slow_2", "slow_3", "slow_4", "refused", "broken", "unlucky"]
    words = [cluster.address, json.dumps([[name, str(marks)] for name in names])]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *words], stdout=subprocess.PIPE, env=ENVIRONMENT)
    wait_for(lambda: len([*marks.glob("slow_*")]) >= 2)
    cluster.kill(cluster.workers[0])
    try:
        answer, _ = driver.communicate(timeout=180)
    finally:
        driver.kill()
    found = json.loads(answer.splitlines()[-1])
    for name in names[:4]:
        assert found[name][0] == name.upper()
    assert max(found[name][2] for name in names[:4]) > 1, "the killed node was at work"
    assert found["refused"] == [None, "no such thing", 1]
    assert found["broken"] == [None, "OSError: disk", ATTEMPTS]
    assert found["unlucky"][0] == "UNLUCKY"


def _arrays(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.npy"))}


@pytest.mark.deploy
def test_a_cluster_prepares_predicts_and_evaluates_as_it_is_done_here_and_skips_what_is_done(tmp_path, cluster):
    workspace = write_tiny_workspace(tmp_path)
    trained = ["train", f"workspace={workspace}", "fold=0", "iterations=4", "executor=ray"]
    command = [sys.executable, "-m", "medseg", *trained, f"address={cluster.address}"]
    subprocess.run(command, env=ENVIRONMENT, check=True)
    prepared = _arrays(workspace / "prepared")
    shutil.rmtree(workspace / "prepared")
    assert main(["train", f"workspace={workspace}", "fold=0", "iterations=4", "restart=true"]) == 0
    assert prepared
    assert _arrays(workspace / "prepared") == prepared
    images = tmp_path / "data" / "images"
    (images / "bad.nii.gz").write_bytes(b"no image")
    words = [f"model={workspace}", f"input={images}", "picture=false"]
    assert main(["predict", *words, f"output={tmp_path / 'here'}"]) == 2
    away = [*words, f"output={tmp_path / 'away'}", "executor=ray", f"address={cluster.address}"]
    command = [sys.executable, "-m", "medseg", "predict", *away]
    first = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert first.returncode == 2, first.stderr
    assert "5 predicted, 1 failed" in first.stdout
    assert "bad.nii.gz" in first.stdout
    for path in sorted((tmp_path / "here").glob("*.nii.gz")):
        assert np.array_equal(read_labels(path).array, read_labels(tmp_path / "away" / path.name).array)
    scored = ["evaluate", f"predictions={tmp_path / 'away'}", f"labels={tmp_path / 'data' / 'labels'}", "picture=false"]
    assert main([*scored, f"output={tmp_path / 'scored_here'}"]) == 0
    there = [*scored, f"output={tmp_path / 'scored_there'}", "executor=ray", f"address={cluster.address}"]
    subprocess.run([sys.executable, "-m", "medseg", *there], env=ENVIRONMENT, check=True)
    written = [(tmp_path / folder / "scores.json").read_bytes() for folder in ("scored_here", "scored_there")]
    assert written[0] == written[1]
    (tmp_path / "away" / "3.nii.gz").unlink()
    second = subprocess.run(
        [*command, "skip_existing=true"], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert "6 case(s), 4 of them done already" in second.stdout
    assert (tmp_path / "away" / "3.nii.gz").is_file()


def test_without_a_cluster_one_sentence_says_how_to_start_one():
    with pytest.raises(SettingsError, match="ray start --head"):
        next(RayCluster("127.0.0.1:1")(halved, [1]))
