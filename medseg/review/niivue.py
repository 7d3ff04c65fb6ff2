"""The library that draws the interactive view: one locked version of NiiVue, fetched from npm and checked by its hash.

Knows nothing of pages. It is never part of the repository: the build of the wheel fetches it, and in a clone
``medseg view fetch=true`` does. Imports nothing beyond the standard library and medseg's own small modules, because the
build runs it before anything is installed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from medseg.errors import MedsegError
from medseg.files import written_whole

VERSION = "0.69.0"
INTEGRITY = "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
"""Of the package, as npm's lock files write it."""
FILE = "niivue.js"
_MEMBER = "package/dist/index.js"
_LARGEST = 32 * 2**20
_SECONDS = 60


def fetch(folder: Path, registry: str | None = None) -> Path:
    """Put NiiVue into ``folder`` unless it is there; returns the file.

    ``registry`` is npm's or a mirror of it (npm's own setting ``npm_config_registry`` by default). Raises MedsegError
    when it can't be reached, or when what it sends is not the locked package.
    """
    target = folder / FILE
    if target.is_file():
        return target
    set_by_npm = os.environ.get("npm_config_registry")  # noqa: SIM112 (npm writes it so)
    base = (registry or set_by_npm or "https://registry.npmjs.org").rstrip("/")
    script = unpack(_download(f"{base}/@niivue/niivue/-/niivue-{VERSION}.tgz"))
    with written_whole(target) as temporary:
        temporary.write_bytes(script)
    return target


def unpack(package: bytes) -> bytes:
    """The script in npm's package. Raises MedsegError unless the package is the locked one, to the bit."""
    digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if not hmac.compare_digest(f"sha512-{digest}", INTEGRITY):
        raise MedsegError(
            f"NiiVue {VERSION} should have the hash {INTEGRITY} but sha512-{digest} came. "
            "Nothing was installed; check the registry that npm_config_registry names."
        )
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        member = archive.extractfile(_MEMBER)
        assert member is not None  # the hash is that of a package which has it
        return member.read()


def _download(address: str) -> bytes:
    if not address.startswith("https://"):
        raise MedsegError(f"{address} is not an https address. Name a registry with npm_config_registry=https://...")
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:  # noqa: S310 (https, see above)
            return answer.read(_LARGEST)
    except (OSError, urllib.error.URLError) as error:
        raise MedsegError(
            f"NiiVue could not be fetched from {address}: {getattr(error, 'reason', error)}. "
            "Without it the viewer shows slices; try again with 'medseg view fetch=true'."
        ) from error
