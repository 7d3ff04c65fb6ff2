"""C10, medseg's side: the checks of ``medseg check`` and the fingerprint of ``medseg plan``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.cases.check import check_dataset
from medseg.cases.formats import read_dataset
from medseg.planning.measure import measure_fingerprint
from medseg.progress import Silent


def prepare(request: Mapping[str, Any]) -> Callable[[], tuple[dict[str, bool], dict[str, float]]]:
    """``dataset`` is nnU-Net's raw layout; ``faulty`` are datasets by the name of their fault."""
    faulty, silent = dict(request["faulty"]), Silent()
    caught: dict[str, bool] = {}

    def work() -> tuple[dict[str, bool], dict[str, float]]:
        check_dataset(Path(request["dataset"]), silent, request["workers"])
        measure_fingerprint(read_dataset(Path(request["dataset"])), "stored", silent, request["workers"])
        return caught, {}

    for name, folder in faulty.items():
        caught[name] = any(one.case for one in check_dataset(Path(folder), silent))
    return work


def keep(result: dict[str, bool], folder: Path) -> None:
    """Which faults were found."""
    (folder / "caught.txt").write_text("\n".join(name for name, found in result.items() if found), encoding="utf-8")
