"""Programs of Flower that we start, watch and stop: each in a session of its own, with its children, its log in a file.

Knows nothing of what they do. A signal goes to the whole group; what Flower starts in a further session looks for its
parent five times a second, and ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg.errors import MedsegError

_PATIENCE_S = 15.0


def programs() -> Path:
    """Where Flower's programs are installed: beside the Python that runs this."""
    return Path(sys.executable).parent


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in its own session; at the end of the block it and its group are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 (programs of Flower with our own words, no shell)
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        if _is_gone(process, _PATIENCE_S):
            return


def _is_gone(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process, and its whole group, ended within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what was started is stopped.

    SIGINT is set too: a shell starts what it puts into the background with that signal ignored.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, end) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def end_with_parent(after_s: float = 10.0) -> None:
    """End this process at once when its parent has been gone for so long.

    Flower's programs mean to end themselves then, but wait for ever if the signal meets them while they speak with the
    one that is gone; and whoever lives on keeps the lock of a run that somebody else wants to resume.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(after_s)
        os._exit(1)  # what is on the disk is whole at any moment

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def require_free(host: str, port: int, what: str) -> None:
    """Raise MedsegError where somebody listens there already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            raise MedsegError(
                f"{what} can't listen at {host}:{port}: {error.strerror}. Is another coordinator running? "
                "Stop it, or change the port in federation.yaml."
            ) from None


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for a sentence about what went wrong."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n  ".join(line for line in lines[-count:] if line.strip())
