"""Keys are private from their first byte on, and a certificate is valid for the coordinator's name and for loopback."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from medseg.errors import MedsegError
from medseg.federation import certificates


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    authority_key, key = certificates.make_key(), certificates.make_key()
    authority = certificates.make_authority(authority_key, "prostate")
    server = certificates.make_server_certificate(key, ["fl.example.org", "192.0.2.1"], authority, authority_key)
    certificates.write_certificate(authority, folder / "ca.crt")
    certificates.write_certificate(server, folder / "server.crt")
    certificates.write_tls_key(key, folder / "server.key")
    certificates.write_tls_key(authority_key, folder / "ca.key")
    return folder


def _shake_hands(kit: Path, name: str, ca: Path) -> str:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(kit / "server.crt", kit / "server.key")
    client = ssl.create_default_context(cafile=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True):
                pass
        except OSError:
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as wrapped:
            return str(wrapped.version())
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["fl.example.org", "192.0.2.1", "localhost", "127.0.0.1"])
def test_sites_reach_the_coordinator_under_each_of_its_names(kit: Path, name: str) -> None:
    assert _shake_hands(kit, name, kit / "ca.crt") == "TLSv1.3"


def test_another_name_or_another_authority_is_no_coordinator(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _shake_hands(kit, "elsewhere.example.org", kit / "ca.crt")
    certificates.write_certificate(certificates.make_authority(certificates.make_key(), "other"), tmp_path / "ca.crt")
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(kit, "fl.example.org", tmp_path / "ca.crt")


def test_private_keys_are_for_their_owner_only_and_never_overwritten(kit: Path) -> None:
    assert (kit / "server.key").stat().st_mode & 0o777 == 0o600
    before = (kit / "server.key").read_bytes()
    with pytest.raises(MedsegError, match="never overwritten"):
        certificates.write_tls_key(certificates.make_key(), kit / "server.key")
    assert (kit / "server.key").read_bytes() == before


def test_a_node_key_is_what_flower_reads_and_its_public_half_is_recognised(tmp_path: Path) -> None:
    key = certificates.make_key()
    certificates.write_node_key(key, tmp_path / "node.key")
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    again = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    pem = again.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[union-attr]
    public = certificates.read_public(certificates.public_text(key), "north")
    assert certificates.same_key(public, pem)
    assert not certificates.same_key(certificates.make_key().public_key(), pem)


@pytest.mark.parametrize(
    "text", ["", "ssh-rsa AAAA", "not a key", "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY="]
)
def test_another_kind_of_key_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(MedsegError, match=r"P-384.*ssh-keygen"):
        certificates.read_public(text, "north.pub")


def test_a_certificate_is_no_key(kit: Path) -> None:
    with pytest.raises(MedsegError, match="private key"):
        certificates.read_tls_key(kit / "ca.crt")
    assert certificates.read_tls_key(kit / "ca.key").curve.name == "secp384r1"
