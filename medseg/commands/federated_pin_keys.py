"""``medseg federated pin-keys``: a hospital's own key for secure sums, and the public keys of the other hospitals.

The keys must not come through the coordinator, who could put its own in between: hospitals send each other the file
that this command names, and compare its SHA-256 by telephone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from medseg.commands.console import say
from medseg.errors import SettingsError
from medseg.settings import Settings, build


class PinKeysSettings(Settings):
    """Settings of ``medseg federated pin-keys``."""

    site: Path
    """The hospital's site.toml."""
    keys: Path | None = None
    """Folder with NAME.pem of every other hospital; without it the own key is made and named."""


SETTINGS = (PinKeysSettings,)


def run(words: Mapping[str, str]) -> None:
    """Make the key if there is none, and pin those that are given."""
    from medseg.federation.secure_site import make_keys, pin_keys
    from medseg.federation.secure_sum import is_public_key
    from medseg.federation.site_file import SiteFile

    settings = build(PinKeysSettings, words)
    site = SiteFile.load(settings.site)
    own = make_keys(site.folder)
    found = {path.stem: path.read_bytes() for path in sorted(settings.keys.glob("*.pem"))} if settings.keys else {}
    if settings.keys and not found:
        raise SettingsError(
            f"There is no NAME.pem in {settings.keys}. Put the public key of every other hospital there."
        )
    for name, pem in found.items():
        if not is_public_key(pem):
            raise SettingsError(
                f"{settings.keys}/{name}.pem is no public key on P-384. Ask '{name}' for its file once more."
            )
    pin_keys(site.folder, {name: pem for name, pem in found.items() if name != site.name})
    say(f"Own public key, to be sent to the others as {site.name}.pem: {site.folder / 'secure_sum' / 'public.pem'}")
    for name, pem in {site.name: own, **found}.items():
        say(f"  {name}: SHA-256 {hashlib.sha256(pem).hexdigest()}")
    if found:
        say(f"Pinned: {', '.join(name for name in found if name != site.name)}. Compare the SHA-256 by telephone.")
