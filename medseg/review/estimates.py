"""How much memory a prediction will need, asked before it is begun: ``medseg predict ... estimate=true`` to the letter.

Knows nothing of pages or networks. Each question is one process, so that the server itself never loads a network; the
answers are kept.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from medseg.review.jobs import memory_in

_PATIENCE_S = 120.0
_KEPT = 256


@dataclass(frozen=True)
class Estimate:
    """What the command said."""

    memory: str = ""
    refusal: str = ""
    """Its own sentence where the case would not fit, or can not be read."""


class Estimates:
    """Answers by the words of the command; safe to use from several threads."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, ...], Future[Estimate]] = {}
        self._lock = threading.Lock()
        self._asker = ThreadPoolExecutor(1, "medseg estimates")

    def of(self, words: Sequence[str]) -> Estimate | None:
        """The estimate for ``medseg predict WORD ...``; None while it is being made, which the first call begins."""
        with self._lock:
            if len(self._asked) > _KEPT:
                self._asked = {key: asked for key, asked in self._asked.items() if not asked.done()}
            key = tuple(words)
            if key not in self._asked:
                self._asked[key] = self._asker.submit(estimate, key)
            asked = self._asked[key]
        return asked.result() if asked.done() else None


def estimate(words: Sequence[str]) -> Estimate:
    """Ask, and wait for the answer."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "medseg", "predict", *words, "estimate=true", f"output={scratch}"]
        try:
            told = subprocess.run(  # noqa: S603 (this Python, our own command, words as a list)
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_PATIENCE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Estimate(refusal=f"The memory could not be estimated: {type(error).__name__}.")
    lines = [line.strip() for line in told.stdout.splitlines() if line.strip()]
    found = [memory for line in lines if (memory := memory_in(line))]
    if told.returncode == 0 and found:
        return Estimate(memory=found[-1])
    return Estimate(refusal=next((line for line in lines if line.startswith("medseg ")), (lines or [""])[-1]))
