"""Where a command does its work on cases: settings that ``predict``, ``train`` and ``evaluate`` share."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from medseg.executors import Executor, RayCluster, Threads
from medseg.settings import Settings


class ExecutorSettings(Settings):
    """Here, or on an existing cluster; its machines have medseg and see the same paths."""

    executor: Literal["here", "ray"] = "here"
    """ray: spread the cases over an existing Ray cluster (needs the extra: pip install medseg[cluster])."""
    address: str = "auto"
    """With executor=ray: HOST:PORT of the cluster's head; auto takes the cluster that this machine is part of."""
    cpus: PositiveInt = 1
    """With executor=ray: processors for each case; with device=cuda 'medseg predict' takes a GPU as well."""

    def chosen(self, threads: int, gpus: int = 0) -> Executor:
        """So many threads here, or the cluster."""
        return RayCluster(self.address, self.cpus, gpus) if self.executor == "ray" else Threads(threads)
