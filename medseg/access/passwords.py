"""A file of users and what their passwords hash to (scrypt, RFC 7914), readable by its owner alone.

Knows nothing of sessions or web pages. Each entry carries its own salt and cost, so that a stronger cost later leaves
older entries valid. The cost is OWASP's: 32 MiB and about a tenth of a second of one core.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medseg.documents import Document, Record
from medseg.errors import MedsegError, SettingsError
from medseg.files import written_whole

SHORTEST = 12
"""Characters a password must have (NIST SP 800-63B asks for length, not for kinds of characters)."""


class PasswordHash(Record):
    """What is kept of one password."""

    salt: str
    digest: str
    cost: int = Field(default=2**15, ge=2**14, le=2**20)
    """scrypt's N: memory is 128 * 8 * N bytes."""
    rounds: int = Field(default=3, ge=1, le=16)
    """scrypt's p."""


class PasswordFile(Document):
    """Users by name."""

    kind: ClassVar[str] = "passwords"
    error: ClassVar[type[MedsegError]] = SettingsError

    users: dict[str, PasswordHash] = Field(default_factory=dict)

    def accepts(self, user: str, password: str) -> bool:
        """Whether this is the user's password; an unknown user takes as long as a wrong password."""
        known = self.users.get(user)
        against = known or _NOBODY
        matches = hmac.compare_digest(_digest(password, against), base64.b64decode(against.digest))
        return matches and known is not None

    def save(self, path: Path) -> None:
        """Write the file whole, for its owner's eyes only. Raises MedsegError when the disk refuses."""
        with written_whole(path) as temporary:
            temporary.chmod(0o600)  # before anything is in it
            temporary.write_text(json.dumps(self.content(), indent=1) + "\n", encoding="utf-8")


def set_password(path: Path, user: str, password: str) -> bool:
    """Add a user to the file, or give one a new password; returns whether the user is new.

    Raises SettingsError for a name or password that won't do, and for a file that is something else.
    """
    if not user or len(user) > 64 or not user.isprintable() or user != user.strip():
        raise SettingsError(f"user={user!r} is not a usable name: write 1 to 64 characters without blanks around them.")
    if len(password) < SHORTEST:
        raise SettingsError(f"The password has {len(password)} characters and needs at least {SHORTEST}.")
    listed = PasswordFile.load(path) if path.exists() else PasswordFile()
    users = {**listed.users, user: hash_password(password)}
    PasswordFile(users=users).save(path)
    return user not in listed.users


def hash_password(password: str, **cost: int) -> PasswordHash:
    """A fresh salt, and the password's scrypt digest under it; ``cost`` and ``rounds`` as in PasswordHash."""
    empty = PasswordHash.model_validate(
        {"salt": base64.b64encode(secrets.token_bytes(16)).decode(), "digest": "", **cost}
    )
    return empty.model_copy(update={"digest": base64.b64encode(_digest(password, empty)).decode()})


def _digest(password: str, under: PasswordHash) -> bytes:
    memory = 128 * 8 * under.cost
    return hashlib.scrypt(
        password.encode(),
        salt=base64.b64decode(under.salt),
        n=under.cost,
        r=8,
        p=under.rounds,
        maxmem=2 * memory,
        dklen=32,
    )


_NOBODY = PasswordHash(salt="AAAAAAAAAAAAAAAAAAAAAA==", digest=base64.b64encode(bytes(32)).decode())
"""What an unknown user's password is compared with."""
