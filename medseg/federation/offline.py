"""What keeps Flower, and Ray beside it, from calling home: variables that must be set before either is imported.

Knows nothing of federations. Flower reports starts and stops to its makers, looks for updates, and installs an app's
dependencies from a public index unless told otherwise; in a hospital none of that may happen.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from medseg.errors import MedsegError

OFFLINE: dict[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "UV_OFFLINE": "1",
    "PIP_NO_INDEX": "1",
}
_PASSED_ON = ("LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_PROXY = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


def go_offline() -> None:
    """Set the variables for this process and those it starts."""
    os.environ.update(OFFLINE)


def child_environment(home: Path, programs: list[Path], proxy: bool = False) -> dict[str, str]:
    """The whole environment of a Flower process: only what it needs of ours, its own home, our programs first.

    ``proxy`` passes a hospital's HTTPS proxy on, by which the coordinator is reached.
    """
    ours = (*_PASSED_ON, "PYTHONPATH", *(_PROXY if proxy else ()))
    kept = {name: os.environ[name] for name in ours if name in os.environ}
    path = os.pathsep.join([*map(str, programs), "/usr/local/bin", "/usr/bin", "/bin"])
    # HOME too is Flower's own: nothing of the user's settings or credentials is read or written.
    return {**kept, **OFFLINE, "PATH": path, "HOME": str(home), "FLWR_HOME": str(home), "PYTHONUNBUFFERED": "1"}


def require_flower() -> None:
    """Raise MedsegError unless Flower is installed."""
    if find_spec("flwr") is None:
        raise MedsegError("Federations of several machines need an extra: pip install 'medseg[federated]'.")
