"""What the coordinator tells its own SuperLink, over loopback: which sites there are, what to run, what became of it.

Knows nothing of training. The SuperLink asks no credential for any of this, which is why no site may reach it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from medseg.errors import MedsegError
from medseg.federation.certificates import same_key

_GONE = "unregistered"
FINISHED = "finished"
"""The status of a run that has ended, however."""


@dataclass(frozen=True)
class RunStatus:
    """What the SuperLink says of a run; whether it was a success is for the run's own result to say."""

    status: str
    """pending, starting, running or finished."""
    sub_status: str
    details: str
    bytes_sent: int
    bytes_received: int


def build_app(folder: Path) -> bytes:
    """The app in a folder as Flower sends it; the same files give the same bytes. Raises MedsegError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower calls pathspec by an older name
            return build_fab_from_disk(folder)
    except (ValueError, OSError) as error:
        raise MedsegError(f"{folder} could not be packed as a Flower app: {error}.") from None


class Control:
    """A connection to the SuperLink of this machine."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def register(self, keys: Mapping[str, EllipticCurvePublicKey]) -> list[str]:
        """Make the registered nodes those of ``keys``; gives the names that are new."""
        nodes = [node for node in self._client.ListNodes(ListNodesRequest()).nodes_info if node.status != _GONE]
        for node in nodes:
            if not any(same_key(key, node.public_key) for key in keys.values()):
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        known = {name for name, key in keys.items() for node in nodes if same_key(key, node.public_key)}
        for name, key in keys.items():
            if name not in known:
                self._client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key), name=name))
        return [name for name in keys if name not in known]

    def online(self, keys: Mapping[str, EllipticCurvePublicKey]) -> dict[str, str]:
        """Site -> what the SuperLink says of its node: registered, online, offline."""
        nodes = [node for node in self._client.ListNodes(ListNodesRequest()).nodes_info if node.status != _GONE]
        return {name: node.status for name, key in keys.items() for node in nodes if same_key(key, node.public_key)}

    def start_run(self, app: bytes, settings: Mapping[str, str | int | float | bool]) -> int:
        """Submit an app; gives Flower's number of the run."""
        fab = Fab(hashlib.sha256(app).hexdigest(), app, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(settings)))
        reply = self._client.StartRun(request)
        if not reply.HasField("run_id"):
            raise MedsegError(f"The SuperLink did not start the run. {reply.note}".strip())
        return int(reply.run_id)

    def open_runs(self) -> dict[str, int]:
        """Folder of each run that has not ended (its setting ``run``) -> Flower's number of it."""
        runs = self._client.ListRuns(ListRunsRequest()).run_dict
        return {
            run.override_config["run"].string: int(number)
            for number, run in runs.items()
            if run.status.status != FINISHED
        }

    def stop_run(self, number: int) -> None:
        """Ask the SuperLink to end a run."""
        self._client.StopRun(StopRunRequest(run_id=number))

    def run_status(self, number: int) -> RunStatus:
        """What has become of a run."""
        run = self._client.ListRuns(ListRunsRequest(run_id=number)).run_dict[number]
        status = run.status
        return RunStatus(status.status, status.sub_status, status.details, int(run.bytes_sent), int(run.bytes_recv))


@contextmanager
def control_of(address: str, authority: Path) -> Iterator[Control]:
    """A connection to the SuperLink at ``address`` (host:port). Raises MedsegError where there is none."""
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    client = ControlHttpClient.from_server_address(address, False, authority.read_bytes(), interceptors=[version])
    try:
        yield Control(client)
    except httpx.HTTPStatusError as error:
        raise MedsegError(
            f"The SuperLink refused: status {error.response.status_code}, {error.response.text}"
        ) from None
    except httpx.HTTPError as error:
        raise MedsegError(
            f"No SuperLink answers at {address} ({type(error).__name__}). Start it with 'medseg federated serve'."
        ) from None
    finally:
        client.close()
