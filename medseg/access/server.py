"""Where the viewer's server listens and who may come in: settings, and the rules that they must keep.

Knows nothing of Streamlit. One rule above all: beyond this machine nobody gets in without signing in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from medseg.access.asgi import is_loopback
from medseg.access.gate import Keeper
from medseg.access.openid import OpenId, OpenIdSettings
from medseg.access.passwords import PasswordFile
from medseg.access.sessions import Sessions
from medseg.access.throttle import Throttle
from medseg.access.ways import Passwords, Way
from medseg.errors import SettingsError
from medseg.settings import Seconds


class ServerSettings(OpenIdSettings):
    """How the viewer is served."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs passwords= or openid=."""
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

    @property
    def must_sign_in(self) -> bool:
        return self.passwords is not None or self.openid is not None

    def require_safe(self) -> None:
        """Raise SettingsError where the server would be open to others, or half encrypted."""
        if not self.must_sign_in and not is_loopback(self.host):
            raise SettingsError(
                f"host={self.host} would let everybody on the network look at the images. Add a user with "
                "'medseg view user=NAME passwords=FILE' and give passwords=FILE here, or let users sign in at the "
                "hospital's provider with openid=ISSUER."
            )
        if self.passwords is not None and self.openid is not None:
            raise SettingsError(
                "passwords= and openid= are two ways to sign in: one name would be two users. Give one."
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
        self.require_usable_openid()
        if self.openid is not None and self.address is None and not is_loopback(self.host):
            raise SettingsError("openid= needs address=https://NAME, to which the provider sends browsers back.")

    def keeper(self, texts: Mapping[str, str]) -> Keeper | None:
        """What the gate needs to let users in, with the texts of its page; None where nobody must sign in."""
        file = self.passwords
        way: Way | None = None
        if file is not None:
            way = Passwords(lambda: PasswordFile.load(file), Throttle(), texts)
        elif self.openid is not None:
            way = OpenId(self, self.own_address, texts)
        return None if way is None else Keeper(way, Sessions(self.session, self.longest_session), texts)

    @property
    def own_address(self) -> str:
        """Under which browsers open the viewer, without a slash at its end."""
        if self.address is not None:
            return self.address.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}"

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers reach the server by https alone, its own or a proxy's."""
        return self.own_address.startswith("https://")

    @property
    def names(self) -> frozenset[str]:
        """Host names that the gate answers to; empty means any, which signing in makes harmless."""
        if self.hosts:
            return frozenset((*self.hosts, self.host))
        return frozenset() if self.must_sign_in else frozenset(("localhost", "127.0.0.1", "::1", self.host))
