"""Keys and certificates of a federation: its own authority, the coordinator's certificate, a key for every site.

Knows nothing of who uses them. Elliptic curve P-384 throughout, as Flower's node authentication asks; private keys are
written readable by their owner only, and never over an older one.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medseg.errors import MedsegError
from medseg.files import written_whole

PrivateKey = ec.EllipticCurvePrivateKey
LOOPBACK = ("localhost", "127.0.0.1")
"""The SuperLink listens there, behind the gateway and under the same certificate."""
_AUTHORITY_DAYS, _SERVER_DAYS = 3650, 825


def make_key() -> PrivateKey:
    """A private key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def make_authority(key: PrivateKey, name: str) -> x509.Certificate:
    """The certificate by which the sites know their coordinator; it signs no further authorities."""
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"medseg federation {name}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, key_cert_sign=True, crl_sign=True, **_NEITHER)
    return (
        _dated(own, own, key, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def make_server_certificate(
    key: PrivateKey, hosts: Sequence[str], authority: x509.Certificate, authority_key: PrivateKey
) -> x509.Certificate:
    """The coordinator's certificate for the hosts and this machine's loopback, as subject alternative names."""
    names = list(dict.fromkeys([*hosts, *LOOPBACK]))
    usage = x509.KeyUsage(True, False, False, False, False, key_cert_sign=False, crl_sign=False, **_NEITHER)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    return (
        _dated(subject, authority.subject, key, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA384())
    )


_NEITHER = {"encipher_only": False, "decipher_only": False}


def _dated(subject: x509.Name, issuer: x509.Name, key: PrivateKey, days: int) -> x509.CertificateBuilder:
    # An hour back: the clock of a hospital may be behind ours.
    now = datetime.now(UTC) - timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now).not_valid_after(now + timedelta(days=days))


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def write_certificate(certificate: x509.Certificate, path: Path) -> None:
    """Write PEM."""
    with written_whole(path) as temporary:
        temporary.write_bytes(certificate.public_bytes(Encoding.PEM))


def write_tls_key(key: PrivateKey, path: Path) -> None:
    """Write a private key as PKCS 8, rights 0600. Raises MedsegError where the file is there already."""
    _write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_node_key(key: PrivateKey, path: Path) -> None:
    """Write a site's private key in OpenSSH's format, which Flower reads, rights 0600."""
    _write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def public_text(key: PrivateKey) -> str:
    """The public half as OpenSSH writes it, one line."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def read_public(text: str, where: str) -> ec.EllipticCurvePublicKey:
    """A site's public key. Raises MedsegError unless it is one line of OpenSSH's format on P-384."""
    try:
        key = load_ssh_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MedsegError(
            f"{where} should hold a public key on the curve P-384, as OpenSSH writes it. "
            "The site makes one with: ssh-keygen -t ecdsa -b 384 -m PEM -N '' -f node.key"
        )
    return key


def same_key(one: ec.EllipticCurvePublicKey, pem: bytes) -> bool:
    """Whether a public key is the one that Flower tells of a node, as PEM."""
    return one.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip() == pem.strip()


def read_tls_key(path: Path) -> PrivateKey:
    """A private key that ``write_tls_key`` wrote. Raises MedsegError."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise MedsegError(f"{path} should hold a private key on P-384 as PEM. 'medseg federated init' writes one.")
    return key


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Exclusive, and 0600 from its first byte on: no moment in which others could read it.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MedsegError(f"{path} is there already, and keys are never overwritten. Name another folder.") from None
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
