"""Secure sums at a site: where its key and the pinned keys of the others lie, and how an answer is masked.

Knows nothing of how the answer came about. A Request names the attempt and who takes part in the header's
``secure_sum``; keys never come with a Request. The arrays leave as ``masked.<name>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.documents import Record
from medseg.errors import SettingsError, SiteError
from medseg.federation.messages import JSON, Arrays, Request
from medseg.federation.secure_sum import Context, MaskingSite, new_keys
from medseg.files import write_text, written_whole

FOLDER = "secure_sum"
PREFIX = "masked."
_KEY, _PINNED = "key.pem", "pinned"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MOST_ATTEMPTS = 20
"""In one round of one run: each is a further look at this site's numbers."""


class Joint(Record):
    """The header's ``secure_sum``."""

    attempt: int
    participants: tuple[str, ...]
    weight: float
    """By which this site's numbers are multiplied before they are masked; public, at most 1."""


def make_keys(folder: Path) -> bytes:
    """A key for the site whose folder this is, unless it has one; gives the public one, PEM, to be pinned elsewhere."""
    place = folder / FOLDER / _KEY
    if not place.is_file():
        private, public = new_keys()
        write_text(place.with_name("public.pem"), public.decode())
        with written_whole(place) as temporary:
            temporary.chmod(0o600)  # before there is anything in it
            temporary.write_bytes(private)
    return place.with_name("public.pem").read_bytes()


def pin_keys(folder: Path, public_keys: Mapping[str, bytes]) -> None:
    """Write the others' public keys down at a site. They have to come another way than through the server.

    Raises SettingsError where another key of that name is pinned already: nobody may replace it without a word.
    """
    files = {folder / FOLDER / _PINNED / f"{_checked(name)}.pem": pem for name, pem in public_keys.items()}
    for path, pem in files.items():
        if path.is_file() and path.read_bytes() != pem:
            raise SettingsError(
                f"Another key of '{path.stem}' is pinned already: {path}. If that hospital has made a new one (ask by "
                "telephone), remove the file and pin again. Nothing was changed."
            )
    for path, pem in files.items():
        write_text(path, pem.decode())


def exchange_keys(folders: Mapping[str, Path]) -> None:
    """Keys for all sites of a simulation, by name and folder, each pinned at all others."""
    public = {name: make_keys(folder) for name, folder in folders.items()}
    for folder in folders.values():
        pin_keys(folder, public)


@dataclass(frozen=True)
class Masking:
    """One answer of one site that is to be masked."""

    site: MaskingSite
    context: Context
    weight: float

    @classmethod
    def begun(cls, site: str, folder: Path, request: Request) -> Masking:
        """Look whether the Request's sum can be answered, before anything is done for it.

        Raises SiteError with a code, ``secure-sum-no-keys`` where the site has none yet.
        """
        joint = read_joint(request.header.get("secure_sum"))
        found = cls(
            _masking_site(site, folder),
            Context(request.run, request.round, joint.attempt, joint.participants),
            joint.weight,
        )
        found.site.require_open(found.context)
        return found

    def answer(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays, times the site's public weight, masked. Raises SiteError for numbers that don't fit."""
        weighted = {name: array.astype(np.float64) * self.weight for name, array in arrays.items()}
        return {PREFIX + name: array for name, array in self.site.mask(weighted, self.context).items()}


def read_joint(value: JSON) -> Joint:
    """The header's part. Raises SiteError("bad-secure-sum")."""
    try:
        joint = Joint.model_validate(value)
    except ValueError:
        raise SiteError("bad-secure-sum") from None
    names = all(_NAME.fullmatch(name) for name in joint.participants)
    if not names or not 0 <= joint.attempt < _MOST_ATTEMPTS or not 0 < joint.weight <= 1:
        raise SiteError("bad-secure-sum")
    return joint


def _masking_site(site: str, folder: Path) -> MaskingSite:
    key, pinned = folder / FOLDER / _KEY, folder / FOLDER / _PINNED
    if not key.is_file() or not pinned.is_dir():
        raise SiteError("secure-sum-no-keys")
    public = {path.stem: path.read_bytes() for path in sorted(pinned.glob("*.pem"))}
    return MaskingSite(site, key.read_bytes(), public, folder / FOLDER)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SiteError("secure-sum-unknown-site")
    return name
