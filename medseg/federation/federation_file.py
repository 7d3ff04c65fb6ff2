"""``federation.yaml``: which hospitals form a federation, by which keys they are known, and where the coordinator is.

Knows nothing of runs. Written by ``medseg federated init``; every path of a federation's folder is named here once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from pydantic import Field

from medseg.chained_log import ChainedLog
from medseg.documents import Document
from medseg.errors import MedsegError, SettingsError
from medseg.federation.certificates import read_public
from medseg.federation.site_file import Sha256, Slug

Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]


class Federation(Document):
    """The coordinator's list of its sites."""

    kind: ClassVar[str] = "federation"
    error: ClassVar[type[MedsegError]] = SettingsError

    name: Slug
    host: Host
    """Name or address under which sites reach the coordinator."""
    port: Port
    """Where the gateway listens."""
    superlink_port: Port
    """Where the SuperLink listens, on loopback only."""
    sites: dict[Slug, str]
    """Of every site its public key, as OpenSSH writes it."""
    app: Sha256
    """SHA-256 of the app that travels, which sites approve."""

    def keys(self) -> dict[str, EllipticCurvePublicKey]:
        """Of every site its public key. Raises MedsegError for one that is none."""
        return {name: read_public(text, f"site '{name}'") for name, text in self.sites.items()}

    @property
    def superlink(self) -> str:
        """Address of the SuperLink."""
        return f"127.0.0.1:{self.superlink_port}"


@dataclass(frozen=True)
class Place:
    """The folder of a federation."""

    folder: Path

    @property
    def federation(self) -> Path:
        return self.folder / "federation.yaml"

    @property
    def app(self) -> Path:
        """The app as it is sent."""
        return self.folder / "app.fab"

    @property
    def coordinator(self) -> Path:
        """What stays with the coordinator: keys, logs, runs."""
        return self.folder / "coordinator"

    @property
    def authority(self) -> Path:
        return self.coordinator / "ca.crt"

    @property
    def authority_key(self) -> Path:
        return self.coordinator / "ca.key"

    @property
    def certificate(self) -> Path:
        return self.coordinator / "server.crt"

    @property
    def key(self) -> Path:
        return self.coordinator / "server.key"

    @property
    def flower(self) -> Path:
        """Where Flower keeps its own files, its database among them."""
        return self.coordinator / "flower"

    @property
    def audit(self) -> ChainedLog:
        """What was asked of whom, and what came."""
        return ChainedLog(self.coordinator / "audit.jsonl")

    def site(self, name: str) -> Path:
        """What is handed to a hospital."""
        return self.folder / "sites" / name

    def run(self, name: str) -> Path:
        """What the coordinator keeps of a run."""
        return self.coordinator / "runs" / name

    @classmethod
    def of_run(cls, folder: Path) -> Place:
        """The federation that a run's folder belongs to."""
        return cls(folder.parents[2])

    def open(self) -> Federation:
        """Read federation.yaml. Raises SettingsError where there is none."""
        if not self.federation.is_file():
            raise SettingsError(f"{self.folder} holds no federation. 'medseg federated init' makes one.")
        return Federation.load(self.federation)
