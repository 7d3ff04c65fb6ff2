"""Everything a federation needs before its first run, as one folder: keys, certificates, files for services, the app.

Knows nothing of training. What is in ``sites/NAME`` goes to that hospital, by a way that others can't read; a hospital
that made its own key is given none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import SettingsError
from medseg.federation import certificates, service_files
from medseg.federation.federation_file import Federation, Place
from medseg.federation.site_file import write_site_file
from medseg.files import folder_written_whole, written_whole


@dataclass(frozen=True)
class Kit:
    """What a federation is made of."""

    name: str
    host: str
    port: int
    superlink_port: int
    sites: Sequence[str]
    public_keys: Mapping[str, str]
    """Of sites that made their own key, its public half; the others get one."""
    app: bytes
    """The app as it is sent."""


def write_kit(kit: Kit, folder: Path) -> Federation:
    """Write the whole folder or nothing. Raises SettingsError where it is there already."""
    if folder.exists():
        raise SettingsError(f"{folder} is there already, and keys are never overwritten. Name another folder.")
    with folder_written_whole(folder) as temporary:
        place = Place(temporary)
        _write_certificates(kit, place)
        sites = {name: _write_site(kit, place, name) for name in kit.sites}
        with written_whole(place.app) as path:
            path.write_bytes(kit.app)
        federation = Federation(
            name=kit.name,
            host=kit.host,
            port=kit.port,
            superlink_port=kit.superlink_port,
            sites=sites,
            app=hashlib.sha256(kit.app).hexdigest(),
        )
        federation.keys()  # every key can be read
        federation.save(place.federation)
        service_files.write_coordinator_files(place.coordinator, federation, folder.absolute())
    return federation


def _write_certificates(kit: Kit, place: Place) -> None:
    authority_key, key = certificates.make_key(), certificates.make_key()
    authority = certificates.make_authority(authority_key, kit.name)
    server = certificates.make_server_certificate(key, [kit.host], authority, authority_key)
    certificates.write_tls_key(authority_key, place.authority_key)
    certificates.write_tls_key(key, place.key)
    certificates.write_certificate(authority, place.authority)
    certificates.write_certificate(server, place.certificate)


def _write_site(kit: Kit, place: Place, name: str) -> str:
    """Write what goes to one hospital; gives its public key."""
    folder, coordinator = place.site(name), f"{kit.host}:{kit.port}"
    write_site_file(folder / "site.toml", name, coordinator, hashlib.sha256(kit.app).hexdigest())
    (folder / "ca.crt").write_bytes(place.authority.read_bytes())
    public = kit.public_keys.get(name)
    if public is None:
        key = certificates.make_key()
        certificates.write_node_key(key, folder / "node.key")
        public = certificates.public_text(key)
    certificates.read_public(public, f"{name}.pub")
    (folder / "node.pub").write_text(public.strip() + "\n", encoding="utf-8")
    service_files.write_site_files(folder, name, coordinator)
    return " ".join(public.split()[:2])  # without the comment, in which OpenSSH writes who made it and where
