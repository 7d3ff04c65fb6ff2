"""The folder that init writes holds all that a federation needs, and each hospital gets only what is its own."""

import configparser
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from cryptography.x509 import load_pem_x509_certificate

from medseg.cli import main
from medseg.errors import MedsegError
from medseg.federation import certificates
from medseg.federation.federation_file import Place
from medseg.federation.gateway import FLEET
from medseg.federation.kit import Kit, write_kit
from medseg.federation.offline import OFFLINE, child_environment
from medseg.federation.processes import free_port, require_free, running
from medseg.federation.site_file import SiteFile

APP = b"an app"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("federations") / "prostate")
    own = certificates.public_text(certificates.make_key()) + " somebody@hospital"
    write_kit(Kit("prostate", "fl.example.org", 8443, 9092, ["north", "south"], {"south": own}, APP), place.folder)
    return place


def test_the_federation_knows_its_sites_by_their_keys_and_by_no_name_of_a_person(place: Place) -> None:
    federation = place.open()
    assert set(federation.keys()) == {"north", "south"}
    assert federation.app == hashlib.sha256(APP).hexdigest() == hashlib.sha256(place.app.read_bytes()).hexdigest()
    assert "somebody" not in place.federation.read_text()


def test_a_hospital_that_made_its_own_key_is_given_none(place: Place) -> None:
    assert not (place.site("south") / "node.key").exists()
    SiteFile.load(place.site("north") / "site.toml").require_safe_key()


def test_no_key_is_where_it_does_not_belong(place: Place) -> None:
    private = sorted(p.relative_to(place.folder) for p in place.folder.rglob("*") if _is_private(p))
    assert [str(path) for path in private] == ["coordinator/ca.key", "coordinator/server.key", "sites/north/node.key"]
    assert all((place.folder / path).stat().st_mode & 0o077 == 0 for path in private)


def _is_private(path: Path) -> bool:
    return path.is_file() and b"PRIVATE KEY" in path.read_bytes()


def test_the_certificate_is_for_the_coordinators_name_and_loopback(place: Place) -> None:
    names = load_pem_x509_certificate(place.certificate.read_bytes()).extensions
    assert "fl.example.org" in str(names)
    assert "127.0.0.1" in str(names)


@pytest.mark.parametrize("of", ["coordinator", "sites/north"])
def test_services_have_what_keeps_them_from_calling_home(place: Place, of: str) -> None:
    (unit,) = (place.folder / of).glob("*.service")
    text = unit.read_text()
    assert all(f"Environment={name}={value}\n" in text for name, value in OFFLINE.items())
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(text)
    assert parsed["Service"]["NoNewPrivileges"] == "true"
    (service,) = yaml.safe_load((place.folder / of / "compose.yaml").read_text())["services"].values()
    assert service["environment"] == OFFLINE
    assert service["read_only"] is True


def test_a_hospitals_data_are_mounted_read_only(place: Place) -> None:
    services = yaml.safe_load((place.site("north") / "compose.yaml").read_text())["services"]
    assert "/path/to/dataset:/path/to/dataset:ro" in services["site"]["volumes"]
    assert "ports" not in services["site"]


@pytest.mark.parametrize("of", ["coordinator", "sites/north"])
def test_an_image_is_made_of_the_wheel_and_of_nothing_else_in_the_folder(place: Place, of: str) -> None:
    assert (
        'pip install --no-cache-dir "$(echo /tmp/medseg-*.whl)[federated]"'
        in (place.folder / of / "Dockerfile").read_text()
    )
    rules = (place.folder / of / ".dockerignore").read_text().splitlines()
    assert [rule for rule in rules if not rule.startswith("#")] == ["*", "!medseg-*.whl"]


def test_a_run_without_a_server_leaves_nothing_behind(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("flwr")
    labels = place.folder / "labels.yaml"
    labels.write_text("labels: {prostate: 1}\n")
    before = sorted(place.folder.rglob("*"))
    assert main(["federated", "run", f"folder={place.folder}", f"labels={labels}", "channels=[T2]"]) == 2
    assert "Start it with 'medseg federated serve'" in capsys.readouterr().err
    assert sorted(place.folder.rglob("*")) == before
    labels.unlink()


def test_nginx_opens_what_our_gateway_opens(place: Place) -> None:
    text = (place.coordinator / "nginx.conf").read_text()
    assert f"^/v1/fleet/({'|'.join(FLEET)})$" in text
    assert "location / { return 404; }" in text
    assert "control" not in text
    assert "runtime" not in text


def test_a_folder_that_is_there_is_never_overwritten(place: Place) -> None:
    before = place.key.read_bytes()
    with pytest.raises(MedsegError, match="never overwritten"):
        write_kit(Kit("prostate", "h", 1, 2, ["north"], {}, APP), place.folder)
    assert place.key.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sites=[north,north]"], "name of its own"),
        (["sites=[St.Mary]"], "St.Mary"),
        (["sites=[north]", "keys=nowhere"], "no folder nowhere"),
        (["sites=[north]", "keys=keys"], "['west']"),
    ],
)
def test_mistakes_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/west.pub").write_text("key")
    assert main(["federated", "init", "folder=fed", "host=fl.example.org", *words]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys"]


def test_the_command_says_what_goes_where_and_the_apps_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/south.pub").write_text(certificates.public_text(certificates.make_key()))
    words = ["folder=fed", "host=fl.example.org", "sites=[north,south]", "keys=keys"]
    assert main(["federated", "init", *words]) == 0
    shown = capsys.readouterr().out
    assert Place(Path("fed")).open().app in shown
    assert "south: with its own key" in shown


def test_a_childs_environment_holds_nothing_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    environment = child_environment(tmp_path, [Path("/guard"), Path("/programs")])
    assert "secret" not in environment.values()
    assert "HTTPS_PROXY" not in environment
    assert environment["PATH"].startswith("/guard:/programs:")
    assert OFFLINE.items() <= environment.items()
    assert child_environment(tmp_path, [], proxy=True)["HTTPS_PROXY"] == "http://proxy:3128"


def test_a_program_is_gone_with_its_group_when_the_block_ends(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {deaf!r}])"]
    with running(command, {"PATH": "/usr/bin"}, tmp_path, tmp_path / "log") as process:
        while "up" not in (tmp_path / "log").read_text():
            assert process.poll() is None
    assert process.poll() is not None
    left = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_a_port_that_is_taken_is_told_in_one_sentence() -> None:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(MedsegError, match="Is another coordinator running"):
            require_free("127.0.0.1", one.getsockname()[1], "The gateway")
    require_free("127.0.0.1", free_port(), "The gateway")


def test_a_process_whose_parent_is_gone_ends_even_if_it_hangs(tmp_path: Path) -> None:
    hanging = (
        "import threading; from medseg.federation.processes import end_with_parent; end_with_parent(0.1);"
        "import os; print(os.getpid(), flush=True); threading.Lock().acquire(); threading.Event().wait()"
    )
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {hanging!r}]); time.sleep(600)"
    environment = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 60
    while _is_running(child):
        assert time.monotonic() < end
        time.sleep(0.1)


def _is_running(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
