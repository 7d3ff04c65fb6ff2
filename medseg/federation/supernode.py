"""A hospital's SuperNode: it asks the coordinator for work over TLS, and lets only approved apps do it.

Knows nothing of the work. Nothing listens at a hospital but a port on loopback, through which the SuperNode and the
process of each message speak; the program that Flower starts for each of them is ours (``Guard``).
"""

from __future__ import annotations

import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from medseg.errors import MedsegError
from medseg.federation.offline import child_environment
from medseg.federation.processes import free_port, programs, running
from medseg.federation.site_file import SiteFile

_HEAD = "#!/bin/sh\n# Written by 'medseg federated join', which puts this folder where Flower looks for its programs.\n"
_GUARD = """\
# Flower starts this for every message; it lets only approved apps run.
exec {python} -c 'import sys; from medseg.federation.flower.client import run_guarded; run_guarded(sys.argv.pop(1))' \\
  {site_file} "$@"
"""
_REFUSAL = """\
# A coordinator may ask for this program, which would run what it brings; it is not started here.
exec {python} -c 'import sys; from medseg.federation.flower.client import refuse; sys.exit(refuse(*sys.argv[1:]))' \\
  {site_file} {program}
"""


@contextmanager
def supernode_running(path: Path, site_file: SiteFile) -> Iterator[subprocess.Popen[bytes]]:
    """A SuperNode that takes part in the name of a site. ``path`` is where its site.toml lies."""
    site_file.require_safe_key()
    home = site_file.folder / "flower"
    write_guard(home / "bin", path)
    command = [
        str(programs() / "flower-supernode"),
        *("--superlink", site_file.coordinator, "--root-certificates", str(site_file.authority)),
        *("--auth-supernode-private-key", str(site_file.key)),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    # Flower's own folder of programs is left out, so that none is found but through the guard's.
    environment = child_environment(home, [home / "bin"], proxy=True)
    with running(command, environment, home, log_of(site_file)) as process:
        yield process


def log_of(site_file: SiteFile) -> Path:
    """What the SuperNode and the processes it starts say; nobody else reads it."""
    return site_file.folder / "supernode.log"


def write_guard(folder: Path, site_file: Path) -> None:
    """Write every program that a SuperNode starts by name: the guard, SuperExec as it is, refusals of the others."""
    from medseg.federation.flower.client import REFUSED

    python, file = shlex.quote(sys.executable), shlex.quote(str(site_file.absolute()))
    texts = {
        "flwr-clientapp": _GUARD.format(python=python, site_file=file),
        "flower-superexec": f'exec {shlex.quote(str(programs() / "flower-superexec"))} "$@"\n',
    }
    texts |= {name: _REFUSAL.format(python=python, site_file=file, program=name) for name in REFUSED}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = folder / name
        path.write_text(_HEAD + text, encoding="utf-8")
        path.chmod(0o700)


def require_coordinator(site_file: SiteFile) -> None:
    """Raise MedsegError unless the coordinator answers, under a certificate of this federation's authority."""
    trust = ssl.create_default_context(cafile=site_file.authority)
    try:
        with httpx.Client(verify=trust, timeout=20) as client:
            status = client.get(f"https://{site_file.coordinator}/health").status_code
    except httpx.HTTPError as error:
        raise MedsegError(
            f"The coordinator {site_file.coordinator} can't be reached: {error}. Check the address in site.toml, "
            "outgoing connections (HTTPS_PROXY is followed), and that ca.crt is this federation's."
        ) from None
    if status != httpx.codes.OK:
        raise MedsegError(f"The coordinator {site_file.coordinator} answers with status {status}. Try again later.")
