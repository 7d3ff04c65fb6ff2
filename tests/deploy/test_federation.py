"""A federation of real processes on loopback: TLS, registered keys, approved apps, no patient's name in what leaves.

One federation is brought up for all tests, which run in this order; each run takes some ten seconds on a quiet machine,
since Flower starts a process for every message.
"""

import contextlib
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from medseg.cases.dataset import Dataset
from medseg.cases.formats import save_dataset
from medseg.chained_log import ChainedLog
from medseg.federation.comparison import Comparison
from medseg.federation.conduct import RunResult, conduct, result_file, write_order
from medseg.federation.federation_file import Federation, Place
from medseg.federation.in_process import InProcess
from medseg.federation.policy import SitePolicy
from medseg.federation.privacy.certificate import Certificate
from medseg.federation.privacy.ledger import LEDGER, Ledger
from medseg.federation.processes import free_port
from medseg.federation.run_state import RunState
from medseg.federation.site import Site
from medseg.federation.superlink import is_healthy
from medseg.paths import Workspace

from tiny import TABLE, tiny_plan, write_tiny_dataset

pytest.importorskip("flwr")

from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

pytestmark = pytest.mark.deploy

SITES = ("north", "south")
STRANGER = "west"
PLANTED = ("DOE_JANE", "19500101", "ROE^RICHARD")
"""What must not be found in any byte that leaves: in folders, in names of cases, in headers of images."""
PATIENCE_S = 600


@dataclass
class World:
    """A federation's folder, and the processes that are up."""

    place: Place
    kept: Path
    workspace: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    everyone: Federation | None = None
    """The federation with the site that was not on its list at first."""

    def medseg(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medseg", "federated", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "medseg", "federated", *words], stdout=log, stderr=subprocess.STDOUT
            )
        self.processes[name] = process
        return process

    def serve(self) -> None:
        process = self.start("serve", "serve", f"folder={self.place.folder}", "listen=127.0.0.1", f"keep={self.kept}")
        wait_until(lambda: is_healthy(f"127.0.0.1:{self.place.open().port}", self.place.authority), process)

    def join(self, name: str) -> None:
        self.start(name, "join", f"site={self.site_file(name)}")

    def log(self, name: str) -> Path:
        return self.place.folder.parent / f"{name}.log"

    def site_file(self, name: str) -> Path:
        return self.place.site(name) / "site.toml"

    def edit(self, name: str, pattern: str, value: str) -> None:
        path = self.site_file(name)
        path.write_text(re.sub(pattern, value, path.read_text(), count=1, flags=re.MULTILINE))

    def run_words(self, name: str, **more: object) -> list[str]:
        settings = {"rounds": 2, "steps": 2, "deadline": PATIENCE_S, **more}
        words = [f"{key}={value}" for key, value in settings.items()]
        return ["run", f"folder={self.place.folder}", f"plan={self.workspace}", f"name={name}", *words]

    def processes_of(self, *about: str) -> list[psutil.Process]:
        """Everything that was started for this federation, however far down, and that names all of ``about``."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = " ".join((*process.cmdline(), process.environ().get("FLWR_HOME", "")))
                if process.pid != psutil.Process().pid and all(
                    word in words for word in (str(self.place.folder), *about)
                ):
                    found.append(process)
        return found


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited too long"
        assert process is None or process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.2)


def planted_dataset(folder: Path, first: int) -> Path:
    """Five cases whose folder and headers name patients."""
    place = folder / f"{PLANTED[0]}_{PLANTED[1]}"
    dataset = write_tiny_dataset(place, 5, first)
    for case in dataset.cases:
        _write_description(case.images[0])
    path = place / "dataset.yaml"
    save_dataset(Dataset("tiny", dataset.channels, dataset.labels, dataset.cases), path)
    return path


def _write_description(path: Path) -> None:
    import gzip

    data = bytearray(gzip.decompress(path.read_bytes()))
    data[148 : 148 + len(PLANTED[2])] = PLANTED[2].encode()  # descrip of NIfTI-1
    path.write_bytes(gzip.compress(bytes(data)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    patch.delenv("HTTPS_PROXY", raising=False)
    folder = tmp_path_factory.mktemp("federation")
    workspace = Workspace(folder / "W")
    tiny_plan().save(workspace.plan)
    TABLE.save(workspace.labels)
    world = World(Place(folder / "fed"), folder / "kept", workspace.folder)
    sites = ",".join((*SITES, STRANGER))
    ports = f"port={free_port()}", f"superlink_port={free_port()}"
    done = world.medseg("init", f"folder={world.place.folder}", "host=127.0.0.1", f"sites=[{sites}]", *ports)
    assert done.returncode == 0, done.stderr
    world.everyone = _forget(world.place, STRANGER)
    for number, name in enumerate((*SITES, STRANGER)):
        path = planted_dataset(folder / name, 10 * number)
        world.edit(name, '^dataset = ".*"', f'dataset = "{path}"')
        world.edit(name, "^min_count = .*", "min_count = 1")
        world.edit(name, "^device = .*", 'device = "cpu"')
    try:
        world.serve()
        for name in SITES:
            world.join(name)
        yield world
    finally:
        for process in world.processes.values():
            process.terminate()
        for process in world.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        # What was asked last may still be at work for a moment, in a process of its own.
        until = time.monotonic() + 30
        while (left := world.processes_of()) and time.monotonic() < until:
            time.sleep(0.5)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        patch.undo()
    assert not left


def _forget(place: Place, name: str) -> Federation:
    """Take a site from the list, as if it had never been on it; the list as it was."""
    federation = place.open()
    sites = {site: key for site, key in federation.sites.items() if site != name}
    federation.model_copy(update={"sites": sites}).save(place.federation)
    return federation


def test_nothing_but_the_routes_of_sites_goes_through_the_gateway(world: World) -> None:
    federation = world.place.open()
    trust = str(world.place.authority)
    with httpx.Client(verify=ssl.create_default_context(cafile=trust), trust_env=False) as client:
        outside, inside = f"https://127.0.0.1:{federation.port}", f"https://{federation.superlink}"
        assert client.get(f"{outside}/health").status_code == 200
        for route in ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs"):
            assert client.post(outside + route, content=b"").status_code == 404
            assert client.get(outside + route).status_code == 404
            # The SuperLink itself knows the route: without the gateway it would be open to all.
            assert {client.post(inside + route).status_code, client.get(inside + route).status_code} != {404}
        # A caller without a registered key gets no further than the SuperLink's own check.
        asked = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
        media = {"content-type": PROTOBUF_MEDIA_TYPE}
        assert client.post(f"{outside}/v1/fleet/pull-messages", headers=media, content=asked).status_code == 401
    with pytest.raises(httpx.ConnectError, match=r"(?i)certificate|verify"), httpx.Client(trust_env=False) as client:
        client.get(f"https://127.0.0.1:{federation.port}/health")


def test_a_site_whose_key_is_not_registered_is_refused(world: World) -> None:
    done = world.medseg("join", f"site={world.site_file(STRANGER)}")
    assert done.returncode == 2
    assert "does not know this site's key" in done.stderr
    assert not ChainedLog(world.place.site(STRANGER) / "work/audit.jsonl").path.exists()


def test_an_app_that_is_not_approved_does_not_run_and_an_error_leaves_as_a_code(world: World) -> None:
    approved = world.site_file("south").read_text()
    world.edit("south", r"^apps = \[.*\]", f'apps = ["{"0" * 64}"]')
    (image,) = sorted((world.place.folder.parent / "north").rglob("images/0.nii.gz")) or [
        sorted((world.place.folder.parent / "north").rglob("images/*.nii.gz"))[0]
    ]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    done = world.medseg(*world.run_words("run-0"))
    image.write_bytes(whole)
    world.site_file("south").write_text(approved)
    assert done.returncode == 2, done.stdout
    assert "south (app-not-approved)" in done.stderr
    assert "north (image-file-error)" in done.stderr or "north (dataset-error)" in done.stderr
    assert RunResult.load(result_file(world.place.run("run-0"))).status == "failed"
    refused = list(ChainedLog(world.place.site("south") / "work/audit.jsonl").read())
    assert [entry["what"] for entry in refused] == ["refused"]
    assert not list((world.place.site("south") / "work/flower").rglob("client_app.py"))
    # The text stays where it was raised: it names the patient there, and nowhere else.
    assert PLANTED[0] in (world.place.site("north") / "work/errors.log").read_text()


def test_a_server_that_is_killed_goes_on_and_ends_as_the_simulation_does(world: World, tmp_path: Path) -> None:
    running = world.start("run-1", *world.run_words("run-1"))
    state = world.place.run("run-1") / "run.json"
    wait_until(lambda: state.exists() and RunState.load(state).round >= 1, running)
    _require_loopback_only(world)
    superlinks = world.processes_of("flower-superlink")
    assert superlinks
    for process in (world.processes["serve"], *superlinks, running):
        process.kill()
    world.processes["serve"].wait(60)
    running.wait(60)
    wait_until(lambda: not world.processes_of("flwr-serverapp"))
    assert not result_file(world.place.run("run-1")).exists()
    world.serve()
    done = world.medseg("resume", f"folder={world.place.folder}", "name=run-1")
    assert done.returncode == 0, done.stderr
    result = RunResult.load(result_file(world.place.run("run-1")))
    assert (result.status, result.rounds) == ("completed", 2)
    simulated = _simulate(world, tmp_path)
    assert result.weights == simulated.weights != ""
    assert world.medseg("resume", f"folder={world.place.folder}", "name=run-1").returncode == 0


def _simulate(world: World, folder: Path) -> RunResult:
    """The same order, conducted in this process."""
    from medseg.federation.conduct import RunOrder, order_file
    from medseg.federation.site_file import SiteFile

    torch.set_num_threads(1)
    files = [SiteFile.load(world.site_file(name)) for name in SITES]
    rules = SitePolicy(min_count=1)
    members = [Site(file.name, file.dataset, folder / file.name, rules, device="cpu") for file in files]
    write_order(folder / "run", RunOrder.load(order_file(world.place.run("run-1"))), tiny_plan(), TABLE)
    return conduct(InProcess(members), folder / "run")


def _require_loopback_only(world: World) -> None:
    for process in world.processes_of():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                for address in (connection.laddr, connection.raddr):
                    assert not address or address.ip in ("127.0.0.1", "::1"), (process.cmdline(), connection)


def test_a_node_that_is_killed_is_missing_where_the_policy_allows_it_and_the_result_says_so(world: World) -> None:
    words = world.run_words("run-2", rounds=3, allow_missing="true", min_sites=1, grace=1)
    running = world.start("run-2", *words)
    state = world.place.run("run-2") / "run.json"
    wait_until(lambda: state.exists() and RunState.load(state).round >= 1, running)
    for process in world.processes_of(str(world.place.site("south"))):
        process.kill()
    assert running.wait(PATIENCE_S) == 0, world.log("run-2").read_text()
    result = RunResult.load(result_file(world.place.run("run-2")))
    assert (result.status, result.rounds) == ("completed-with-gaps", 3)
    assert RunState.load(state).history[-1].missing == ("south",)
    assert "Some site was missing" in world.log("run-2").read_text()


def test_hospitals_plan_together_and_train_privately_under_secure_sums(world: World) -> None:
    assert world.everyone is not None
    world.everyone.save(world.place.federation)
    world.processes["serve"].terminate()
    world.processes["serve"].wait(60)
    world.serve()
    keys = world.place.folder.parent / "keys"
    keys.mkdir()
    everyone = (*SITES, STRANGER)
    for name in everyone:
        world.edit(name, "^epsilon_budget = .*", "epsilon_budget = 1000.0")
        world.edit(name, "^fingerprint_noise = .*", "fingerprint_noise = 2.0")
        world.edit(name, "^secure_aggregation = .*", "secure_aggregation = true")
        assert world.medseg("pin-keys", f"site={world.site_file(name)}").returncode == 0
        shutil.copy(world.place.site(name) / "work/secure_sum/public.pem", keys / f"{name}.pem")
    for name in everyone:
        assert world.medseg("pin-keys", f"site={world.site_file(name)}", f"keys={keys}").returncode == 0
    world.processes["south"].wait(60)  # killed in the run before
    for name in ("south", STRANGER):
        world.join(name)
    before = set(world.kept.iterdir())
    words = [f"folder={world.place.folder}", "name=run-3", f"labels={world.workspace / 'labels.yaml'}", "channels=[MR]"]
    words += ["preset=federated_dp", "budget=1s", "rounds=2", "steps=1", f"deadline={PATIENCE_S}"]
    done = world.medseg("run", *words, "privacy=patient", "epsilon=100", "secure_aggregation=true")
    assert done.returncode == 0, done.stderr
    folder = world.place.run("run-3")
    assert RunResult.load(result_file(folder)).status == "completed"
    certificate = Certificate.load(folder / "privacy.json")
    assert [one.account.site for one in certificate.sites] == sorted(everyone)
    assert not [text for text in certificate.outside if text.startswith("the plan")]
    assert (folder / "order/fingerprint.json").is_file()  # the plan was made from histograms with noise
    for name in everyone:
        work = world.place.site(name) / "work"
        charges = [entry.charge for entry in Ledger(work / LEDGER).entries()]
        assert [(one.purpose, one.round) for one in charges] == [("fingerprint", 0), ("train", 1), ("train", 2)]
    left = b"".join(path.read_bytes() for path in world.kept.iterdir() if path not in before)
    assert b'"action":"train"' in left
    assert b"masked." in left
    assert b"delta." not in left
    assert set(Comparison.load(folder / "comparison.json").rows[0].cells) == set(everyone)


def test_a_run_that_waits_for_nobody_ends_with_all_of_them(world: World) -> None:
    for name in (*SITES, STRANGER):
        world.edit(name, "^secure_aggregation = .*", "secure_aggregation = false")
    running = world.start("run-4", *world.run_words("run-4", strategy="async", rounds=3))
    path = world.place.run("run-4") / "run.json"
    wait_until(path.exists, running)
    assert "under way" in world.medseg("status", f"folder={world.place.folder}").stdout
    # Whoever has lost the terminal of a run waits for it with resume; it is not begun a second time.
    done = world.medseg("resume", f"folder={world.place.folder}", "name=run-4")
    assert done.returncode == 0, done.stderr
    assert running.wait(PATIENCE_S) == 0, world.log("run-4").read_text()
    started = [entry for entry in world.place.audit.read() if entry.get("run") == "run-4"]
    assert [entry["what"] for entry in started].count("started") == 1
    state = RunState.load(path)
    assert (state.round, state.status) == (3, "completed")
    assert set().union(*(record.sites for record in state.history)) == {*SITES, STRANGER}
    assert "Dice of held-out cases" in done.stdout


def test_no_patients_name_is_in_any_byte_that_left(world: World) -> None:
    kept = [path.read_bytes() for path in world.kept.iterdir()]
    assert sum(map(len, kept)) > 10_000
    # What the sites sent is all here, in the open: the action and the site's own name can be read.
    assert any(b'"action":"train"' in body for body in kept)
    coordinators = [path.read_bytes() for path in world.place.coordinator.rglob("*") if path.is_file()]
    logs = [world.log(name).read_bytes() for name in ("serve", "run-1", "run-2")]
    for planted in PLANTED:
        assert not [body for body in (*kept, *coordinators, *logs) if planted.encode() in body]


def test_both_ends_logged_the_same_and_a_changed_log_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [entry for entry in world.place.audit.read() if entry.get("run") == "run-1"]
    theirs = list(ChainedLog(world.place.site("north") / "work/audit.jsonl").read())
    came = [entry["arrays"] for entry in ours if entry["what"] == "received" and entry["site"] == "north"]
    left = [entry["arrays"] for entry in theirs if entry["what"] == "answered" and entry["run"] == "run-1"]
    assert set(came) <= set(left)
    assert {entry["what"] for entry in ours} >= {"started", "sent", "received", "ended"}
    stands = world.medseg("status", f"folder={world.place.folder}")
    assert stands.returncode == 0
    assert "run-1: weights" in stands.stdout
    assert "run-0: Not every site can take part" in stands.stdout
    shown = world.medseg("status", f"site={world.site_file('north')}")
    assert shown.returncode == 0, shown.stderr
    log = world.place.audit.path
    text = log.read_text()
    log.write_text(text.replace('"site": "south"', '"site": "north"', 1))
    changed = world.medseg("status", f"folder={world.place.folder}")
    log.write_text(text)
    assert changed.returncode == 2
    assert "tampered" in changed.stdout
