"""Work that the page asks for, one after the other, each in a process of its own that runs a medseg command.

Knows nothing of pages, and nothing of models: a job is ``medseg predict ...`` to the letter, so that it does and
refuses what the command line does. Its output tells how far it is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.errors import MedsegError

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
_PROGRESS = re.compile(r"(?P<title>.+): (?P<done>\d+)/(?P<total>\d+)\b")
_MEMORY = re.compile(r"needs up to about (?P<memory>.+?) beside")
_PATIENCE = 10
"""Seconds between asking a process to end and ending it."""
_LINES = 200
_LONGEST_QUEUE = 20


@dataclass
class Job:
    """One run of one command."""

    number: int
    title: str
    words: tuple[str, ...]
    output: Path
    """The folder that it fills."""
    state: JobState = "queued"
    step: str = ""
    """What it does now."""
    share: float = 0.0
    """Of this step, 0 to 1."""
    memory: str = ""
    """What it needs, estimated before it starts to compute."""
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def sentence(self) -> str:
        """Why it failed."""
        told = [line for line in self.lines if line.startswith("medseg ")]
        return (told or self.lines or [""])[-1]

    def hear(self, line: str) -> None:
        """Take in a line of the process's output."""
        line = line.strip()
        if not line:
            return
        self.lines = [*self.lines[1 - _LINES :], line]
        self.memory = memory_in(line) or self.memory
        if (told := _PROGRESS.match(line)) is not None and int(told["total"]):
            self.step, self.share = told["title"], min(int(told["done"]) / int(told["total"]), 1.0)


def memory_in(line: str) -> str:
    """What a line of ``medseg predict`` says of the memory that a case needs; empty where it says nothing of it."""
    told = _MEMORY.search(line)
    return told["memory"] if told is not None else ""


class Queue:
    """Jobs of one source; a thread runs them in their order."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._process: subprocess.Popen[str] | None = None
        self._current: Job | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def jobs(self) -> list[Job]:
        """All of them, the newest first."""
        return list(reversed(self._jobs))

    @property
    def finished(self) -> int:
        """How many are over: when it grows there is something new to look at."""
        return sum(job.is_over for job in self._jobs)

    def add(self, title: str, command: str, words: Sequence[str], folder: Path) -> Job:
        """Queue ``medseg COMMAND WORD ...``, whose output is a new numbered folder inside of ``folder``.

        Raises MedsegError where too many wait already.
        """
        with self._wake:
            if sum(not job.is_over for job in self._jobs) >= _LONGEST_QUEUE:
                raise MedsegError(f"{_LONGEST_QUEUE} jobs are waiting already. Wait for one, or cancel one.")
            taken = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
            number = 1 + max([*taken, *(job.number for job in self._jobs)], default=0)
            output = folder / str(number)
            job = Job(number, title, (command, *words, f"output={output}"), output)
            self._jobs.append(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, daemon=True, name="medseg jobs")
                self._thread.start()
            self._wake.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Take it out of the queue, or end its process; what it has left in parts is removed."""
        with self._wake:
            if job.is_over:
                return
            running, job.state = job.state == "running", "cancelled"
        if running and self._process is not None:
            _end(self._process)

    def close(self) -> None:
        """Cancel everything, such as when the server ends."""
        for job in self._jobs:
            self.cancel(job)

    def wait(self, job: Job, seconds: float = 600) -> None:
        """Until it is over. Raises MedsegError when that takes too long."""
        until = time.monotonic() + seconds
        while not job.is_over or (job is self._current and self._process is not None):
            if time.monotonic() > until:
                raise MedsegError(f"Job {job.number} is not over after {seconds:g} s.")
            time.sleep(0.05)

    def _work(self) -> None:
        while True:
            with self._wake:
                job = next((one for one in self._jobs if one.state == "queued"), None)
                if job is None:
                    self._wake.wait(timeout=60)
                    continue
                job.state, self._current = "running", job
            try:
                self._run(job)
            except Exception as error:  # the next job should not wait for a fault of this one
                job.lines.append(f"{type(error).__name__}: {error}")
                job.state = "failed"

    def _run(self, job: Job) -> None:
        started = time.monotonic()
        job.output.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 (this Python, our own command, words as a list)
            [sys.executable, "-m", "medseg", *job.words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that Ctrl-C of the server reaches it through ``close``, and only so
        )
        if job.state == "cancelled":
            _end(self._process)
        with self._process as process:
            assert process.stdout is not None  # asked for above
            for line in process.stdout:
                job.hear(line)
        code = self._process.returncode
        job.seconds = time.monotonic() - started
        if job.state == "cancelled":
            shutil.rmtree(job.output, ignore_errors=True)
        else:
            job.state = "done" if code == 0 else "failed"
        self._process = None


def _end(process: subprocess.Popen[str]) -> None:
    """As Ctrl-C does, which leaves nothing half written; by force where that takes too long."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
