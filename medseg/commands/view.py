"""``medseg view``: the clinicians' viewer in a browser, for a workspace, a folder of images or what was predicted.

Knows nothing of pages: it checks the settings, starts ``apps/viewer.py`` as a process of its own, says where it is
seen, and ends it. Without passwords only this machine is served.
"""

from __future__ import annotations

import getpass
import importlib.util
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from medseg.access.passwords import set_password
from medseg.access.server import ServerSettings
from medseg.chained_log import ChainedLog
from medseg.commands.console import say
from medseg.errors import MedsegError, SettingsError
from medseg.paths import shipped
from medseg.review.niivue import FILE, fetch
from medseg.review.sources import SourceSettings, open_source
from medseg.settings import build, setting_names

_PATIENCE = 60.0
"""Seconds until the server must answer."""


class ViewSettings(ServerSettings, SourceSettings):
    """What to look at and how it is served."""

    browser: bool = False
    """Also open the page in this machine's browser."""
    fetch: bool = False
    """Only fetch NiiVue, which the interactive view needs and a clone has not, from npm."""
    user: str | None = None
    """Only add this user to passwords=FILE, or give one a new password (asked for, or the first line of stdin)."""
    check_audit: Path | None = None
    """Only check that nobody has changed this audit log."""


SETTINGS = (ViewSettings,)


def run(words: Mapping[str, str]) -> int:
    """Serve until Ctrl-C or SIGTERM; or do the one other thing that was asked for."""
    settings = build(ViewSettings, words)
    if settings.fetch:
        say(f"NiiVue lies in {fetch(shipped('apps') / 'viewer/assets')}")
        return 0
    if settings.user is not None:
        return _add_user(settings)
    if settings.check_audit is not None:
        return _check_audit(settings.check_audit)
    if importlib.util.find_spec("streamlit") is None:
        raise MedsegError("The viewer needs streamlit, which is not installed: pip install 'medseg[viewer]'")
    settings.require_safe()
    source = open_source(settings)
    port = _free_port(settings)
    say(f"{source.title}: {len(source.cases)} cases")
    if not (shipped("apps") / "viewer/assets" / FILE).is_file():
        say("The interactive view is not installed; slices are shown. To get it: medseg view fetch=true")
    return _serve(settings, words, port)


def _serve(settings: ViewSettings, words: Mapping[str, str], port: int) -> int:
    served = {*setting_names(ServerSettings), *setting_names(SourceSettings)}
    passed = {name: value for name, value in words.items() if name in served} | {"port": str(port)}
    command = [sys.executable, str(shipped("apps") / "viewer.py"), *(f"{k}={v}" for k, v in passed.items())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603 (our own program)

    def end(*_: object) -> None:
        process.terminate()

    signal.signal(signal.SIGTERM, end)
    try:
        _wait_for(process, settings.host, port)
        address = settings.address or f"{'https' if settings.certificate else 'http'}://{_shown(settings.host)}:{port}"
        say(f"Open {address} in a browser; Ctrl-C ends the viewer.")
        if settings.browser:
            webbrowser.open(address)
        return _code(process.wait())
    except KeyboardInterrupt:
        return 0
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _code(ended: int) -> int:
    """0 for a server that was told to end."""
    return 0 if ended in (0, -signal.SIGTERM, -signal.SIGINT) else 1


def _wait_for(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            raise MedsegError("The viewer ended before it could be opened; the lines above say why.")
        try:
            socket.create_connection((_reached(host), port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise MedsegError(f"The viewer did not answer on port {port} within {_PATIENCE:.0f} s.")


def _free_port(settings: ViewSettings) -> int:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SettingsError(
                f"host={settings.host} port={settings.port} can't be used: {error.strerror or error}. "
                "Is the viewer open already? port=0 takes any free port."
            ) from None
        return int(probe.getsockname()[1])


def _reached(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)


def _shown(host: str) -> str:
    name = socket.gethostname() if host != _reached(host) else host
    return f"[{name}]" if ":" in name else name


def _add_user(settings: ViewSettings) -> int:
    if settings.passwords is None or settings.user is None:
        raise SettingsError("user= needs passwords=FILE: the file to add the user to (it is made if it is not there).")
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password for {settings.user}: ")
        if getpass.getpass("The same again: ") != password:
            raise SettingsError("The two passwords differ. Nothing was changed.")
    else:
        password = sys.stdin.readline().rstrip("\n")
    is_new = set_password(settings.passwords, settings.user, password)
    say(f"{settings.passwords}: {settings.user} {'was added' if is_new else 'has a new password'}")
    return 0


def _check_audit(path: Path) -> int:
    if not path.is_file():
        raise SettingsError(f"check_audit={path}: there is no such file. The viewer's log is review/audit.jsonl.")
    verdict = ChainedLog(path).verify()
    if verdict.complaint is not None:
        raise MedsegError(verdict.complaint)
    say(f"{path}: {verdict.entries} entries, unbroken; the last one's hash is {verdict.head}")
    return 0
