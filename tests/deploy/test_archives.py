"""Results travel through real archives, Orthanc and dcmtk's dcmqrscp on loopback, and come back as they were."""

import json
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pydicom
import pytest

from medseg.cli import main
from medseg.dicom.archive import Archive, Tls, archive_at
from medseg.errors import MedsegError

from tiny import asymmetric_labels, write_untrained_model
from tiny_dicom import make_series, save, uid

# pynetdicom leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.deploy,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HOST = "127.0.0.1"
ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
DCMQRSCP = shutil.which("dcmqrscp")
PLUGINS = Path("/usr/share/orthanc/plugins")


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(3000):
                assert process.poll() is None, (folder / "log").read_text()
                with socket.socket() as one:
                    if one.connect_ex((HOST, port)) == 0:
                        break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(120)
            finally:
                process.kill()
                process.wait()


class Running:
    """An archive that is up, and where it sends what is moved to us."""

    def __init__(self, receive_port: int, **addresses: str) -> None:
        self.receive_port, self.addresses = receive_port, addresses

    def open(self, kind: str, tls: Tls | None = None) -> Archive:
        return archive_at(self.addresses[kind], "MEDSEG", tls or Tls(), (HOST, self.receive_port))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Running]:
    if ORTHANC is None or not PLUGINS.is_dir():
        pytest.skip("Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb) is absent")
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom, receive = free_port(), free_port(), free_port()
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "HttpPort": http, "DicomPort": dicom,
        "DicomAet": "ORTHANC", "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True, "UnknownSopClassAccepted": True,
        "DicomModalities": {"medseg": ["MEDSEG", HOST, receive]}, "Plugins": [str(PLUGINS)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running([ORTHANC, "orthanc.json"], http, folder):
        yield Running(receive, dimse=f"ORTHANC@{HOST}:{dicom}", web=f"http://{HOST}:{http}/dicom-web")


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory) -> Iterator[Running]:
    if DCMQRSCP is None:
        pytest.skip("dcmqrscp (Debian: dcmtk) is absent")
    folder = tmp_path_factory.mktemp("dcmqrscp")
    port, receive = free_port(), free_port()
    (folder / "db").mkdir()
    (folder / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nmedseg = (MEDSEG, {HOST}, {receive})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nPACS {folder / 'db'} RW (500, 1024mb) ANY\nAETable END\n"
    )
    with running([DCMQRSCP, "-c", "dcmqrscp.cfg"], port, folder):
        yield Running(receive, dimse=f"PACS@{HOST}:{port}")


def write_study(folder: Path, name: str) -> str:
    """A study whose images a model can segment; returns its UID."""
    voxels = asymmetric_labels().astype("int16") * 400 + 900
    save(make_series(voxels, name=name, StudyInstanceUID=uid(name), PatientID=name, StudyDate="20260102",
                     StudyTime="101112", StudyID="1", AccessionNumber="A", PatientBirthDate="", PatientSex="",
                     ReferringPhysicianName=""), folder / name)  # fmt: skip
    return uid(name)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[str, list[Path]]:
    """A study, and every kind of result of it with its images."""
    folder = tmp_path_factory.mktemp("results")
    study = write_study(folder / "in", "round-trip")
    model = write_untrained_model(folder / "W")
    words = [f"input={folder / 'in'}", f"output={folder / 'out'}", f"model={model}", "mirror=false", "step=1"]
    assert main(["dicom", *words, 'formats=["seg","sr","rtstruct"]']) == 0
    return study, [*sorted((folder / "in").rglob("*")), *sorted((folder / "out").rglob("*.dcm"))]


def fetched(archive: Archive, study: str, folder: Path) -> dict[str, pydicom.Dataset]:
    archive.fetch(study, folder)
    return {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, folder.rglob("*.dcm"))}


def assert_same(sent: list[Path], got: dict[str, pydicom.Dataset]) -> None:
    expected = {ds.SOPInstanceUID: ds for ds in (pydicom.dcmread(path) for path in sent if path.is_file())}
    assert sorted(got) == sorted(expected)
    for instance, dataset in expected.items():
        if "PixelData" in dataset:  # dcmqrscp sends without telling VRs, in which both kinds of bytes read the same
            got[instance]["PixelData"].VR = dataset["PixelData"].VR
        assert got[instance] == dataset, dataset.Modality


def test_orthanc_gives_back_by_c_move_what_it_got_by_c_store(orthanc, results, tmp_path):
    study, files = results
    archive = orthanc.open("dimse")
    archive.send([path for path in files if path.is_file()])
    assert archive.find({"PatientID": "round-trip"}) == [study]
    assert archive.find({"PatientID": "nobody"}) == []
    assert_same(files, fetched(archive, study, tmp_path))


def test_orthanc_gives_back_by_wado_what_it_got_by_stow(orthanc, results, tmp_path):
    study, files = results
    archive = orthanc.open("web")
    archive.send([path for path in files if path.is_file()])
    assert archive.find({"PatientID": "round-trip"}) == [study]
    assert_same(files, fetched(archive, study, tmp_path))


def test_dcmqrscp_gives_back_by_c_move_what_it_got_by_c_store(dcmqrscp, results, tmp_path):
    study, files = results
    archive = dcmqrscp.open("dimse")
    archive.send([path for path in files if path.is_file()])
    assert archive.find({"PatientID": "round-trip", "StudyDate": "20260101-20260131"}) == [study]
    assert_same(files, fetched(archive, study, tmp_path))


def test_studies_are_fetched_processed_and_their_results_sent_in_one_command(orthanc, dcmqrscp, tmp_path):
    study = write_study(tmp_path / "in", "one-command")
    dcmqrscp.open("dimse").send(sorted((tmp_path / "in" / "one-command").iterdir()))
    model = write_untrained_model(tmp_path / "W")
    words = [
        f"fetch={dcmqrscp.addresses['dimse']}", 'query={"PatientID": "one-command"}', f"listen={dcmqrscp.receive_port}",
        f"send={orthanc.addresses['web']}", f"output={tmp_path / 'out'}", f"model={model}", 'formats=["seg","sr"]',
        "mirror=false", "step=1",
    ]  # fmt: skip
    assert main(["dicom", *words]) == 0
    got = fetched(orthanc.open("web"), study, tmp_path / "got")
    assert sorted(ds.Modality for ds in got.values()) == ["SEG", "SR"]


def test_what_is_received_on_a_port_is_processed_and_sent_on(orthanc, tmp_path):
    study = write_study(tmp_path / "in", "received")
    model, port = write_untrained_model(tmp_path / "W"), free_port()
    words = [
        f"listen={port}", f"send={orthanc.addresses['dimse']}", f"output={tmp_path / 'out'}", f"model={model}",
        'formats=["seg","sr"]', "settle=1s", "mirror=false", "step=1", f"log={tmp_path / 'log'}",
    ]  # fmt: skip
    program = Path(__file__).parents[2] / "apps" / "dicom_batch.py"
    with running([sys.executable, str(program), *words], port, tmp_path):
        archive_at(f"MEDSEG@{HOST}:{port}", "SCANNER", Tls()).send(sorted((tmp_path / "in" / "received").iterdir()))
        for _ in range(3000):
            if list((tmp_path / "out").glob("*/sent.txt")):
                break
            time.sleep(0.1)
    assert "done" in (tmp_path / "log").read_text()
    got = fetched(orthanc.open("dimse"), study, tmp_path / "got")
    assert sorted(ds.Modality for ds in got.values()) == ["SEG", "SR"]


@contextmanager
def behind_tls(tls: Tls, port: int) -> Iterator[int]:
    """What stands before an archive in a hospital: a port that asks for certificates and passes everything on.

    (The Orthanc of Debian 12 crashes at the first encrypted connection.)
    """

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((HOST, port)) as inner:
                back = threading.Thread(target=self.copy, args=(inner, self.request))
                back.start()
                self.copy(self.request, inner)
                back.join()

        def copy(self, source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def get_request(self):
            request, address = super().get_request()
            context = tls.for_server()
            assert context is not None
            return context.wrap_socket(request, server_side=True), address

    with Server((HOST, 0), Forward) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_dicomweb_over_tls_shows_certificates(orthanc, tmp_path, results):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out own.pem"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    tls = Tls(ca=tmp_path / "own.pem", certificate=tmp_path / "own.pem", key=tmp_path / "key.pem")
    study, files = results
    with behind_tls(tls, int(orthanc.addresses["web"].split(":")[2].split("/")[0])) as port:
        url = f"https://{HOST}:{port}/dicom-web"
        archive = archive_at(url, "MEDSEG", tls)
        archive.send([path for path in files if path.is_file()])
        assert study in archive.find({})
        for stranger in (Tls(), Tls(ca=tls.ca)):
            with pytest.raises(MedsegError, match="could not search"):
                archive_at(url, "MEDSEG", stranger).find({})
