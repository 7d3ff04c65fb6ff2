"""The coordinator's SuperLink: started on loopback under TLS, with the sites' keys registered and nobody else's.

Knows nothing of runs. What Flower's program would do on its own and must not (listen for everyone, take any node,
install what an app asks for) is turned off here, in one place.
"""

from __future__ import annotations

import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx

from medseg.errors import MedsegError
from medseg.federation.federation_file import Federation, Place
from medseg.federation.flower.control import control_of
from medseg.federation.offline import child_environment
from medseg.federation.processes import last_lines, programs, require_free, running

_PATIENCE_S = 180.0


@contextmanager
def superlink_running(place: Place, federation: Federation) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperLink that answers and knows the sites. Raises MedsegError with the end of its log where it does not."""
    require_free("127.0.0.1", federation.superlink_port, "The SuperLink")
    command = [
        str(programs() / "flower-superlink"),
        *("--host", "127.0.0.1", "--port", str(federation.superlink_port)),
        *("--ssl-ca-certfile", str(place.authority.absolute())),
        *("--ssl-certfile", str(place.certificate.absolute())),
        *("--ssl-keyfile", str(place.key.absolute())),
        *("--database", str((place.flower / "superlink.db").absolute())),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]
    _compact(place.flower / "superlink.db")
    environment = child_environment(place.flower.absolute(), [programs()])
    log = place.coordinator / "superlink.log"
    with running(command, environment, place.flower, log) as process:
        _wait_until_healthy(process, federation.superlink, place.authority, log)
        with control_of(federation.superlink, place.authority) as control:
            control.register(federation.keys())
        yield process


def _compact(database: Path) -> None:
    """Flower deletes what was delivered, but its file keeps the size, and the bytes: every model of every run."""
    if database.is_file():
        with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.Error):
            connection.execute("VACUUM")


def is_healthy(address: str, authority: Path) -> bool:
    """Whether something answers at ``address`` under a certificate of ``authority``."""
    try:
        with httpx.Client(verify=ssl.create_default_context(cafile=authority), trust_env=False, timeout=10) as client:
            return client.get(f"https://{address}/health").status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _wait_until_healthy(process: subprocess.Popen[bytes], address: str, authority: Path, log: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise MedsegError(f"The SuperLink ended at once. {log} ends with:\n  {last_lines(log)}")
        if is_healthy(address, authority):
            return
        time.sleep(0.5)
    raise MedsegError(f"The SuperLink did not answer within {_PATIENCE_S:.0f} s. {log} ends with:\n  {last_lines(log)}")
