"""What is sent over a network arrives unchanged: DIMSE on loopback, with and without TLS."""

import subprocess
from pathlib import Path

import pydicom
import pytest

from medseg.dicom.archive import Address, Tls, archive_at
from medseg.dicom.dimse import Node, receiving
from medseg.errors import MedsegError, SettingsError

from tiny_dicom import make_series, save

# pynetdicom leaves the socket of a refused association to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
HOST = "127.0.0.1"


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return save(make_series(), tmp_path / "sent")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Tls:
    """A certificate for localhost that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out own.pem"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    return Tls(ca=folder / "own.pem", certificate=folder / "own.pem", key=folder / "key.pem")


def node(port: int, tls: Tls | None = None, aet: str = "MEDSEG") -> Node:
    return Node(Address(aet, HOST, port), "SENDER", tls or Tls())


def test_what_is_stored_arrives_bit_for_bit_under_names_that_tell_nothing(tmp_path, files):
    with receiving(tmp_path / "got", "MEDSEG", (HOST, 0), Tls()) as port:
        node(port).echo()
        node(port).send(files)
    got = sorted((tmp_path / "got").rglob("*.dcm"))
    by_uid = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, got)}
    assert [by_uid[ds.SOPInstanceUID] == ds for ds in map(pydicom.dcmread, files)] == [True] * len(files)
    assert len({path.parent for path in got}) == 1
    assert not [path for path in got if "Muster" in str(path) or "1.2" in path.name]


def test_with_tls_both_sides_show_a_certificate_and_nobody_else_gets_in(tmp_path, files, certificate):
    with receiving(tmp_path / "got", "MEDSEG", (HOST, 0), certificate) as port:
        node(port, certificate).send(files)
        with pytest.raises(MedsegError, match="TLS"):
            node(port).send(files)
        with pytest.raises(MedsegError, match="TLS"):
            node(port, Tls(ca=certificate.ca)).send(files)
    assert len(list((tmp_path / "got").rglob("*.dcm"))) == len(files)


def test_who_may_not_send_is_refused(tmp_path, files):
    with receiving(tmp_path / "got", "MEDSEG", (HOST, 0), Tls(), callers=["SCANNER"]) as port:
        with pytest.raises(MedsegError, match="refused"):
            node(port).send(files)
        with pytest.raises(MedsegError, match="refused"):
            node(port, aet="OTHER").send(files)


def test_on_a_full_disk_nothing_is_accepted(tmp_path, files):
    told = f"did not store {len(files)} of {len(files)} objects: status 0xA700"
    with (
        receiving(tmp_path / "got", "MEDSEG", (HOST, 0), Tls(), least_free_bytes=1 << 62) as port,
        pytest.raises(MedsegError, match=told),
    ):
        node(port).send(files)
    assert not list((tmp_path / "got").rglob("*.dcm"))


def test_a_node_that_is_not_there_and_a_port_that_is_taken_are_told(tmp_path, files):
    with (
        receiving(tmp_path / "got", "MEDSEG", (HOST, 0), Tls()) as port,
        pytest.raises(MedsegError, match=f"Port {port}"),
        receiving(tmp_path, "MEDSEG", (HOST, port), Tls()),
    ):
        pass
    with pytest.raises(MedsegError, match="does not answer"):
        node(port).send(files)


@pytest.mark.parametrize("text", ["PACS", "PACS@host", "@host:104", "PACS@host:99999", "ftp://x", "A" * 17 + "@h:1"])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="AET@HOST:PORT"):
        archive_at(text, "MEDSEG", Tls())


def test_an_address_is_dimse_or_dicomweb():
    assert str(archive_at("PACS@host:104", "MEDSEG", Tls()).address) == "PACS@host:104"
    assert archive_at("https://host/dicom-web", "MEDSEG", Tls()).url == "https://host/dicom-web"


def test_files_that_hold_no_certificate_are_told(tmp_path):
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="can't be used"):
        Tls(ca=tmp_path / "x.pem").for_client()
    with pytest.raises(SettingsError, match=r"give tls\.certificate"):
        Tls(ca=tmp_path / "x.pem").for_server()
