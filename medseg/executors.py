"""Where independent pieces of work are done: by threads here, or spread over the nodes of a Ray cluster.

Knows nothing of cases. One interface: an executor is given a function and items, and hands out what became of each as
soon as it is finished. Work that a node drops, because it dies or breaks down, is done again on another node.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from medseg.errors import MedsegError, SettingsError

ATTEMPTS = 3
"""Of one item on a cluster; the same fault on three nodes is the item's own."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Finished(Generic[_Item]):
    """What became of one item: a result, or the sentence of an error."""

    item: _Item
    result: Any = None
    error: str | None = None
    attempts: int = 1
    fault: Exception | None = None
    """Where it was done here and failed otherwise than by a MedsegError: what was raised, with its traceback."""


@runtime_checkable
class Executor(Protocol):
    """Does ``work`` for every item; the order of what it hands out is its own."""

    def __call__(self, work: Callable[[_Item], Any], items: Sequence[_Item]) -> Iterator[Finished[_Item]]: ...


@dataclass(frozen=True)
class Threads:
    """Here, in this process: so many items at once, one after the other where it is one."""

    count: int = 1

    def __call__(self, work: Callable[[_Item], Any], items: Sequence[_Item]) -> Iterator[Finished[_Item]]:
        """Every item; what has not begun is given up where the caller stops."""
        with ThreadPoolExecutor(max(self.count, 1)) as pool:
            waiting = {pool.submit(work, item): item for item in items}
            try:
                for future in as_completed(waiting):
                    yield _finished_here(waiting[future], future.exception(), future)
            finally:
                pool.shutdown(cancel_futures=True)


def _finished_here(item: _Item, error: BaseException | None, future: Future[Any]) -> Finished[_Item]:
    if error is None:
        return Finished(item, future.result())
    if isinstance(error, MedsegError):
        return Finished(item, error=str(error))
    if isinstance(error, Exception):
        return Finished(item, error=f"{type(error).__name__}: {error}", fault=error)
    raise error


@dataclass(frozen=True)
class RayCluster:
    """An existing Ray cluster; ``work`` and items have to be importable and readable on its nodes.

    Raises SettingsError without the extra, or where no cluster answers at the address.
    """

    address: str = "auto"
    """``HOST:PORT`` of its head; auto: the cluster that this machine is part of."""
    cpus: int = 1
    """For each item."""
    gpus: int = 0
    """For each item."""

    def __call__(self, work: Callable[[_Item], Any], items: Sequence[_Item]) -> Iterator[Finished[_Item]]:
        """Spread the items; whatever fails but for a MedsegError is tried again elsewhere."""
        ray = _connected(self.address)
        try:
            yield from _Spread(ray, work, items, self.cpus, self.gpus).finished()
        finally:
            ray.shutdown()


class _Spread(Generic[_Item]):
    """Items under way on a cluster."""

    def __init__(self, ray: Any, work: Callable[[_Item], Any], items: Sequence[_Item], cpus: int, gpus: int) -> None:
        self._ray, self._work, self._items = ray, work, items
        # Ray's own retries are off: it would try again on the very node that broke down.
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_attempt_there)
        self._running: dict[Any, tuple[int, int]] = {}
        self._avoid: dict[int, set[str]] = {}

    def finished(self) -> Iterator[Finished[_Item]]:
        for index in range(len(self._items)):
            self._start(index, 1)
        while self._running:
            (done,), _ = self._ray.wait([*self._running], num_returns=1)
            index, attempt = self._running.pop(done)
            kind, found, node = self._answer(done)
            if kind == "failed" and attempt < ATTEMPTS:
                self._avoid.setdefault(index, set()).add(node)
                self._start(index, attempt + 1)
                continue
            item = self._items[index]
            yield (
                Finished(item, found, attempts=attempt)
                if kind == "done"
                else Finished(item, error=found, attempts=attempt)
            )

    def _answer(self, done: Any) -> tuple[str, Any, str]:
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayError as error:
            return "failed", f"{type(error).__name__}: {str(error).splitlines()[0]}", ""

    def _start(self, index: int, attempt: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy: Any = "SPREAD"
        others = [
            node["NodeID"]
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] not in self._avoid.get(index, ())
        ]
        if attempt > 1 and others:
            strategy = NodeAffinitySchedulingStrategy(others[index % len(others)], soft=True)
        task = self._task.options(scheduling_strategy=strategy)
        self._running[task.remote(self._work, self._items[index], str(Path.cwd()))] = index, attempt


def _connected(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise SettingsError("executor=ray needs an extra: pip install 'medseg[cluster]'.") from None
    _require_answer(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, str(error).strip().splitlines()[0]) from None
    return ray


def _require_answer(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise _no_cluster(address, error.strerror or str(error)) from None


def _no_cluster(address: str, detail: str) -> SettingsError:
    return SettingsError(
        f"No Ray cluster answers at address={address} ({detail}). Start one with 'ray start --head' on one machine "
        "and 'ray start --address=HOST:PORT' on the others, or name it with address=HOST:PORT."
    )


def _attempt_there(work: Callable[[_Item], Any], item: _Item, folder: str) -> tuple[str, Any, str]:
    """On a node, in the folder in which the command was given, so that its paths mean the same.

    Plain words travel back, whatever an exception is made of: done, refused (it will be so again everywhere) or failed;
    and the node's name.
    """
    import ray

    node = ray.get_runtime_context().get_node_id()
    try:
        os.chdir(folder)
        return "done", work(item), node
    except MedsegError as error:
        return "refused", str(error), node
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}", node
