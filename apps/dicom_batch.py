"""The process that segments DICOM studies on a server: a batch over a folder, or a service that waits for studies.

    python apps/dicom_batch.py input=DIR output=DIR model=BUNDLE
    python apps/dicom_batch.py watch=DIR output=DIR model=BUNDLE log=/var/log/medseg.log

Takes the settings of ``medseg dicom``, which does the work, and two more: log=FILE and nice=N. SIGTERM ends it as
Ctrl-C does: nothing is left half written, and the next start goes on where it stopped.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from medseg.cli import main


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def start(words: list[str]) -> int:
    """Run ``medseg dicom`` as a process of a server; 0 when a service was told to end."""
    own = dict(word.split("=", 1) for word in words if word.startswith(("log=", "nice=")))
    rest = [word for word in words if not word.startswith(("log=", "nice="))]
    signal.signal(signal.SIGTERM, _interrupt)
    os.nice(int(own.get("nice", "0")))
    is_service = any(word.startswith(("watch=", "listen=")) for word in rest)
    if "log" not in own:
        code = main(["dicom", *rest])
    else:
        with (
            Path(own["log"]).open("a", encoding="utf-8", buffering=1) as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            code = main(["dicom", *rest])
    return 0 if code == 1 and is_service else code


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
