"""One side of a contest, in a process of its own: prepares once, then works whenever it is told to, and says how long.

Started as ``python turns.py SIDE REQUEST.json`` by the Python of either side, so it needs only the standard library
and knows nothing of medseg. SIDE is a module's name or a file with ``prepare(request)``, which gives a function of one
turn, and ``keep(result, folder)``. Each line on stdin is a folder for the result, or empty; each answer is a line of
JSON on stdout.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

_NAMED = ("medseg", "nnunetv2", "monai", "surface-distance", "torch", "numpy", "scipy", "scikit-image", "onnxruntime")
_MIB = 1024


def main(source: str, request: str) -> None:
    """Answer turn after turn until stdin ends."""
    # Libraries print; what they say must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    side = _load(source)
    work = side.prepare(json.loads(Path(request).read_text(encoding="utf-8")))
    _tell(answers, {"versions": _versions(), "memory": _peak_bytes()})
    for line in sys.stdin:
        answer, result = _turn(work)
        if line.strip():
            side.keep(result, Path(line.strip()))
        del result
        _tell(answers, answer)


def _turn(work: Callable[[], tuple[Any, dict[str, float]]]) -> tuple[dict[str, Any], Any]:
    _forget_peak()
    started = time.perf_counter()
    result, facts = work()
    seconds = time.perf_counter() - started
    seconds = facts.pop("seconds", seconds)  # where a side says itself which part of its turn counts
    return {"seconds": seconds, "memory": _peak_bytes(), "facts": facts}, result


def _load(source: str) -> ModuleType:
    sys.path.pop(0)  # the folder of this file, whose names are no modules of anybody's
    if not source.endswith(".py"):
        return importlib.import_module(source)
    spec = importlib.util.spec_from_file_location("side", source)
    assert spec is not None and spec.loader is not None  # a file that ends in .py has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak starts anew
    except OSError:
        return


def _peak_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * _MIB for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MIB


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _tell(answers: Any, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
