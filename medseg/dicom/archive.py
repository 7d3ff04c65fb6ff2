"""Archives (PACS) that studies are fetched from and results are sent to, by address: DIMSE or DICOMweb.

Knows nothing of what is sent. ``AET@HOST:PORT`` is a DIMSE node, an address that opens with http a DICOMweb service;
both can be encrypted and can ask for certificates of both sides.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medseg.errors import MedsegError, SettingsError
from medseg.settings import Settings

Query = Mapping[str, str]
"""DICOM keywords of the study level and what they should match, such as ``{"PatientID": "7"}``; * and ? match any."""


class Tls(Settings):
    """Encryption of all connections; without a certificate and an authority there is none (for DIMSE)."""

    ca: Path | None = None
    """Certificates of the authorities that are trusted, PEM; the other side has to show one of theirs."""
    certificate: Path | None = None
    """Our own certificate, PEM."""
    key: Path | None = None
    """Its key, PEM."""

    @property
    def wanted(self) -> bool:
        return self.ca is not None or self.certificate is not None

    def for_client(self) -> ssl.SSLContext | None:
        """None without encryption. Raises SettingsError for files that hold no certificates."""
        return self._context(ssl.Purpose.SERVER_AUTH) if self.wanted else None

    def for_server(self) -> ssl.SSLContext | None:
        """The same for the side that is called, which then needs a certificate."""
        if not self.wanted:
            return None
        if self.certificate is None:
            raise SettingsError("To receive over TLS, give tls.certificate= and tls.key=.")
        context = self._context(ssl.Purpose.CLIENT_AUTH)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(purpose, cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"The files of tls.ca, tls.certificate and tls.key can't be used: {error}.") from None
        return context


class Archive(Protocol):
    """What medseg asks of an archive."""

    def find(self, query: Query) -> list[str]:
        """StudyInstanceUIDs that match."""
        ...

    def fetch(self, study_uid: str, folder: Path) -> int:
        """Put every instance of a study into a folder; returns how many there are."""
        ...

    def send(self, files: Sequence[Path]) -> None:
        """Store files. Raises MedsegError unless every one of them was accepted."""
        ...


@dataclass(frozen=True)
class Address:
    """A DIMSE node."""

    aet: str
    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> Address:
        """``AET@HOST:PORT``. Raises SettingsError for anything else."""
        match = re.fullmatch(r"([\x21-\x3f\x41-\x7e ]{1,16})@([^@\s]+):(\d{1,5})", text)
        if match is None or not 0 < int(match[3]) < 65536:
            raise SettingsError(f"An archive is AET@HOST:PORT or an http(s) address, but this is {text!r}.")
        return cls(match[1].strip(), match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"


def archive_at(text: str, own_aet: str, tls: Tls, receive_at: tuple[str, int] = ("127.0.0.1", 11112)) -> Archive:
    """The archive at an address; ``receive_at`` is where a DIMSE node shall send what is fetched from it.

    Raises SettingsError for an address that is none.
    """
    if text.startswith(("http://", "https://")):
        from medseg.dicom.web import Web

        return Web(text, tls)
    from medseg.dicom.dimse import Node

    return Node(Address.read(text), own_aet, tls, receive_at)


def require_all_stored(failed: Mapping[str, str], count: int, where: str) -> None:
    """Raise MedsegError, with the archive's reasons, where any of ``count`` objects was not stored."""
    if failed:
        reasons = "; ".join(sorted(set(failed.values())))
        raise MedsegError(f"{where} did not store {len(failed)} of {count} objects: {reasons}.")
