"""Where the viewer's server listens and who may come in: settings, and the rules that they must keep.

Knows nothing of Streamlit. One rule above all: beyond this machine nobody gets in without signing in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from medseg.access.gate import Keeper, is_loopback
from medseg.access.passwords import PasswordFile
from medseg.access.sessions import Sessions
from medseg.access.throttle import Throttle
from medseg.errors import SettingsError
from medseg.settings import Seconds, Settings


class ServerSettings(Settings):
    """How the viewer is served."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs passwords=."""
    port: int = Field(default=8501, ge=0, le=65535)
    """Port to listen on; 0 takes any that is free."""
    passwords: Path | None = None
    """File of users who may sign in; without it everybody on this machine may look."""
    session: Seconds = 1800.0
    """An unused session ends after this time."""
    longest_session: Seconds = 43200.0
    """And a used one after this."""
    certificate: Path | None = None
    """TLS certificate (PEM), so that passwords and images travel encrypted."""
    key: Path | None = None
    """The certificate's private key (PEM)."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers reach the server, if others than host (behind a proxy)."""
    audit: Path | None = None
    """Log of who signed in and looked at what; by default audit.jsonl beside the reviews."""

    def require_safe(self) -> None:
        """Raise SettingsError where the server would be open to others, or half encrypted."""
        if self.passwords is None and not is_loopback(self.host):
            raise SettingsError(
                f"host={self.host} would let everybody on the network look at the images. Add a user with "
                "'medseg view user=NAME passwords=FILE' and give passwords=FILE here."
            )
        if (self.certificate is None) != (self.key is None):
            raise SettingsError("certificate= and key= belong together. Give both, or neither.")
        for file in (self.passwords, self.certificate, self.key):
            if file is not None and not file.is_file():
                raise SettingsError(f"There is no file {file}.")
        if self.passwords is not None and not PasswordFile.load(self.passwords).users:
            raise SettingsError(
                f"{self.passwords} names no user. Add one: medseg view user=NAME passwords={self.passwords}"
            )

    def keeper(self, texts: Mapping[str, str]) -> Keeper | None:
        """What the gate needs to let users in, with the texts of its page; None where nobody must sign in."""
        file = self.passwords
        if file is None:
            return None
        sessions = Sessions(self.session, self.longest_session)
        return Keeper(lambda: PasswordFile.load(file), sessions, Throttle(), texts)

    @property
    def names(self) -> frozenset[str]:
        """Host names that the gate answers to; empty means any, which passwords make harmless."""
        if self.hosts:
            return frozenset((*self.hosts, self.host))
        return frozenset() if self.passwords is not None else frozenset(("localhost", "127.0.0.1", "::1", self.host))
