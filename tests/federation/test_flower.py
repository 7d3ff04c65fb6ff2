"""Flower carries what we give it, tells us who answered, and learns nothing from what goes wrong at a site."""

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from medseg.cases.formats import save_dataset
from medseg.errors import SiteError
from medseg.federation import certificates
from medseg.federation.messages import Request
from medseg.federation.offline import child_environment
from medseg.federation.site_file import SiteFile, write_site_file
from medseg.federation.supernode import write_guard
from medseg.paths import shipped

from tiny import write_tiny_dataset

flwr = pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.proto.node_pb2 import NodeInfo  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from medseg.federation.flower import client as flower_client  # noqa: E402
from medseg.federation.flower.client import Guard, client_app, run_guarded  # noqa: E402
from medseg.federation.flower.control import build_app  # noqa: E402
from medseg.federation.flower.letters import enclose, make_error, read_error, unfold  # noqa: E402
from medseg.federation.flower.transport import FlowerTransport  # noqa: E402

CHECK = Request("check", "run-1", 0, "")
KEYS = {name: certificates.make_key() for name in ("north", "south")}


class LocalGrid(Grid):
    """A Grid whose nodes are apps in this process."""

    def __init__(self, nodes: dict[int, tuple[bytes, ClientApp]]) -> None:
        self.nodes, self.waiting, self.lost = nodes, dict[str, Message](), set[int]()

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:  # type: ignore[override]
        return None

    def create_message(self, *_: object, **__: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number, public_key=key) for number, (key, _) in self.nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers = []
        for message in messages:
            number = str(len(self.waiting) + 1)
            message.metadata.__dict__["_message_id"] = number
            self.waiting[number] = message
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = []
        for number in message_ids:
            message = self.waiting.get(number)
            if message is None or message.metadata.dst_node_id in self.lost:
                continue
            app = self.nodes[message.metadata.dst_node_id][1]
            context = Context(1, message.metadata.dst_node_id, {}, RecordDict(), {})
            replies.append(app(message, context))
        return replies

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        raise AssertionError("Flower's own waiting has no end")


@pytest.fixture(autouse=True)
def task() -> Iterator[None]:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield
    TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = None
    Guard.current = None


def _pem(name: str) -> bytes:
    return KEYS[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _site(folder: Path, name: str = "north", app: str = "a" * 64) -> Path:
    save_dataset(write_tiny_dataset(folder / "data"), folder / "data/dataset.yaml")
    path = folder / "site.toml"
    write_site_file(path, name, "localhost:8443", app)
    path.write_text(path.read_text().replace("/path/to/dataset", "data/dataset.yaml"))
    return path


def _transport(grid: Grid) -> FlowerTransport:
    return FlowerTransport(grid, {name: key.public_key() for name, key in KEYS.items()}, pause_s=0.01)


def _saying(content: RecordDict | Error) -> ClientApp:
    app = ClientApp()
    app.query()(lambda message, _: Message(content, reply_to=message))
    return app


def test_a_request_reaches_the_site_and_its_reply_comes_back_under_its_name(tmp_path: Path) -> None:
    Guard.current = Guard(_site(tmp_path))
    heard: list[tuple[str, str, int]] = []
    transport = _transport(LocalGrid({11: (_pem("north"), client_app())}))
    transport.note = lambda what, site, _, data: heard.append((what, site, len(data)))
    assert transport.sites() == ("north",)
    replies = transport.exchange({"north": CHECK}, 5)
    assert replies["north"].header == {"cases": 6, "passes": True, "codes": {}}
    assert heard == [
        ("sent", "north", len(CHECK.to_bytes())),
        ("received", "north", len(replies["north"].to_bytes())),
    ]
    assert (transport.sent, transport.received) == ({"north": heard[0][2]}, {"north": heard[1][2]})


def test_a_site_is_known_by_its_key_whatever_it_calls_itself(tmp_path: Path) -> None:
    Guard.current = Guard(_site(tmp_path, "north"))
    transport = _transport(LocalGrid({12: (_pem("south"), client_app())}))
    assert transport.exchange({"south": CHECK}, 5)["south"].error == "another-sites-name"


def test_a_node_with_another_key_is_neither_asked_nor_heard() -> None:
    stranger = certificates.make_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    grid = LocalGrid({13: (stranger, _saying(enclose(b"")))})
    assert _transport(grid).sites() == ()
    assert _transport(grid).exchange({"north": CHECK}, 0.05) == {}
    assert grid.waiting == {}


def test_a_site_that_does_not_answer_is_absent_when_the_deadline_is_over(tmp_path: Path) -> None:
    Guard.current = Guard(_site(tmp_path))
    grid = LocalGrid({11: (_pem("north"), client_app()), 12: (_pem("south"), client_app())})
    grid.lost = {12}
    started = time.monotonic()
    assert set(_transport(grid).exchange({"north": CHECK, "south": CHECK}, 1.0)) == {"north"}
    assert 1.0 <= time.monotonic() - started < 10
    assert set(_transport(grid).exchange({"north": CHECK, "south": CHECK}, 600, enough=lambda r: "north" in r)) == {
        "north"
    }


def test_a_site_that_comes_late_is_asked_then(tmp_path: Path) -> None:
    Guard.current = Guard(_site(tmp_path))
    grid = LocalGrid({})
    grid.get_nodes_before = grid.get_nodes  # type: ignore[attr-defined]
    looks = 0

    def get_nodes() -> Iterable[NodeInfo]:
        nonlocal looks
        looks += 1
        if looks == 3:
            grid.nodes[11] = (_pem("north"), client_app())
        return grid.get_nodes_before()  # type: ignore[attr-defined]

    grid.get_nodes = get_nodes  # type: ignore[method-assign]
    assert set(_transport(grid).exchange({"north": CHECK}, 60)) == {"north"}
    assert looks == 3


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (RecordDict({"medseg": ConfigRecord({"bytes": b"x"})}), "bad-letter"),
        (RecordDict({}), "bad-letter"),
        (RecordDict({"medseg": ArrayRecord([np.zeros((2, 2), np.float32)])}), "bad-letter"),
        (enclose(b"no message of ours"), "bad-message-version"),
        (make_error("app-not-approved"), "app-not-approved"),
        (Error(2, "FileNotFoundError: /data/DOE_JANE/ct.nii.gz"), "failed"),
        (Error(5, "Node Unavailable"), "unreachable"),
        (Error(100, "DOE^JANE"), "flower-error-100"),
        (Error(77, None), "flower-error-77"),
    ],
)
def test_what_is_no_reply_becomes_a_code(content: RecordDict | Error, code: str) -> None:
    reply = _transport(LocalGrid({11: (_pem("north"), _saying(content))})).exchange({"north": CHECK}, 5)["north"]
    assert (reply.error, reply.site) == (code, "north")


@pytest.mark.parametrize("size", [0, 1, 1_000_003])
def test_bytes_come_back_as_they_were(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert unfold(enclose(data)) == data


def test_an_error_of_ours_carries_a_code_and_nothing_else() -> None:
    assert make_error("DOE JANE").reason == "failed"
    assert read_error(make_error("not-guarded")) == "not-guarded"


def test_without_the_guard_nothing_is_answered() -> None:
    reply = _transport(LocalGrid({11: (_pem("north"), client_app())})).exchange({"north": CHECK}, 5)["north"]
    assert reply.error == "not-guarded"


def test_whatever_a_site_raises_leaves_as_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Guard.current = Guard(_site(tmp_path))

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("/data/patients/DOE_JANE_1950/ct.nii.gz")

    monkeypatch.setattr(flower_client, "answer_audited", fail)
    grid = LocalGrid({11: (_pem("north"), client_app())})
    (number,) = grid.push_messages([Message(enclose(CHECK.to_bytes()), 11, "query")])
    (reply,) = grid.pull_messages([number])
    assert "DOE" not in repr(reply.error)
    assert read_error(reply.error) == "failed"


def test_the_app_is_two_short_files_and_its_checksum_does_not_change(tmp_path: Path) -> None:
    import io
    import shutil
    import zipfile

    app = build_app(shipped("federated"))
    names = zipfile.ZipFile(io.BytesIO(app)).namelist()
    assert sorted(names) == [".info/CONTENT", "client_app.py", "pyproject.toml", "server_app.py"]
    shutil.copytree(shipped("federated"), tmp_path / "copy")
    (tmp_path / "copy/notes.txt").write_text("stays here")
    assert hashlib.sha256(build_app(tmp_path / "copy")).digest() == hashlib.sha256(app).digest()


class Offered:
    """What a coordinator sends of an app, and what Flower's own functions would do with it."""

    def __init__(self, app: bytes, fab_id: str = "medseg/medseg-federated", version: str = "1.0.0") -> None:
        self.content, self.fab_id, self.fab_version = app, fab_id, version
        self.hash_str = hashlib.sha256(app).hexdigest()
        self.installed: list[bytes] = []

    def offer_to(self, guard: Guard) -> None:
        guard._pull = lambda _: (None, None, self, self)
        guard._install = lambda content, **_: self.installed.append(content)
        guard.pull(None)
        guard.install(self.content, skip_prompt=True)


def test_only_an_approved_app_is_unpacked(tmp_path: Path) -> None:
    app = build_app(shipped("federated"))
    guard = Guard(_site(tmp_path, app=hashlib.sha256(app).hexdigest()))
    offered = Offered(app)
    offered.offer_to(guard)
    assert offered.installed == [app]
    assert guard.app == hashlib.sha256(app).hexdigest()
    other = Offered(app + b"\0")
    with pytest.raises(SiteError, match="app-not-approved"):
        other.offer_to(guard)
    assert other.installed == []
    assert guard.error(2, "SiteError: ...").reason == "app-not-approved"
    assert [entry["error"] for entry in guard.site_file.audit().read()] == ["app-not-approved"]


@pytest.mark.parametrize("claimed", [{"fab_id": "medseg/other"}, {"version": "../../../tmp/evil"}])
def test_an_approved_app_under_another_name_is_refused(tmp_path: Path, claimed: dict[str, str]) -> None:
    app = build_app(shipped("federated"))
    guard = Guard(_site(tmp_path, app=hashlib.sha256(app).hexdigest()))
    with pytest.raises(SiteError, match="app-under-another-name"):
        Offered(app, **claimed).offer_to(guard)


def test_a_flower_that_can_not_be_guarded_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supernode.runtime import run_clientapp

    monkeypatch.delattr(run_clientapp, "install_from_fab")
    with pytest.raises(SiteError, match="flower-cannot-be-guarded"):
        run_guarded(_site(tmp_path))


def test_a_changed_site_file_counts_at_once(tmp_path: Path) -> None:
    path = _site(tmp_path)
    assert SiteFile.load(path).apps
    path.write_text(path.read_text().replace(f'apps = ["{"a" * 64}"]', "apps = []"))
    assert Guard(path).site_file.apps == ()


def test_of_flowers_programs_a_site_starts_none_but_the_guard(tmp_path: Path) -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    path = _site(tmp_path)
    write_guard(tmp_path / "bin", path)
    environment = child_environment(tmp_path, [tmp_path / "bin"])
    found = {name: shutil.which(name, path=environment["PATH"]) for name in TASK_TYPE_TO_COMMAND.values()}
    assert found == {name: str(tmp_path / "bin" / name) for name in found}
    assert "run_guarded" in (tmp_path / "bin/flwr-clientapp").read_text()
    others = set(found) - {"flwr-clientapp"}
    assert {"flwr-agentapp", "flwr-serverapp"} <= others
    assert all("refuse" in (tmp_path / "bin" / name).read_text() for name in others)
    asked = [str(tmp_path / "bin/flwr-agentapp"), "--token", "secret"]
    environment["PYTHONPATH"] = ":".join(sys.path)
    assert subprocess.run(asked, env=environment, check=False, timeout=300).returncode == 1
    (entry,) = SiteFile.load(path).audit().read()
    assert (entry["error"], entry["program"]) == ("program-not-allowed", "flwr-agentapp")


_SOCKETS = """
import socket, sys
def refuse(*_, **__): raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
import medseg.federation.flower.client, medseg.federation.flower.control, medseg.federation.flower.transport
from flwr.supercore.telemetry import EventType, event
from flwr.supercore.update_check import warn_if_flwr_update_available
import os
event(EventType.PING)
warn_if_flwr_update_available(process_name="flower-supernode")
import time; time.sleep(0.5)
print("quiet")
"""


@pytest.mark.slow
def test_flower_opens_no_socket_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _SOCKETS]
    environment = {"PATH": "/usr/bin:/bin", "FLWR_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "quiet", done.stderr
    assert "a socket was opened" not in done.stderr
