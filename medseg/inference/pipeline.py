"""Many Cases one after the other: while one is computed, the next is read and prepared and the last one is delivered.

Knows nothing of folders or of what delivering means. Two threads help, no processes: reading, resampling and writing
leave Python's lock alone for most of their time. Nothing is read ahead that the memory bound has no room for, at most
one finished Case waits, and Cases are delivered in their order whatever became of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

from medseg.cases.case import Case, peek_case_image
from medseg.errors import MedsegError
from medseg.images.volume import Volume
from medseg.inference.memory import Bound, Memory, choose_layout, reading_bytes, writing_bytes
from medseg.inference.model import Networks
from medseg.inference.options import Options
from medseg.inference.predict import Prediction, Ready, finish_case, predict_ready, read_ready
from medseg.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """What became of one Case."""

    case: Case
    result: Prediction | Exception
    seconds: float
    """Of reading, preparing and computing it."""


def predict_cases(
    cases: Sequence[Case],
    model: Networks,
    options: Options,
    progress: Progress,
    deliver: Callable[[Outcome], None],
    announce: Callable[[Case, Memory], None] | None = None,
) -> None:
    """Predict every Case; ``deliver`` is called for each in their order, by one thread of its own.

    A Case that fails is delivered with its error and does not stop the others; what ``deliver`` raises does.
    ``announce`` is told the estimated peak of each Case before its work starts.
    """
    bound = Bound.of(options)
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "deliver") as deliverer:
        line = _Line(model, options, progress, bound, announce, reader)
        waiting: Future[None] | None = None
        try:
            for case, following in zip_longest(cases, cases[1:]):
                outcome = line.predict(case, following, waiting)
                if waiting is not None:
                    waiting.result()
                waiting = deliverer.submit(_deliver, outcome, model, options, deliver)
                line.delivered = _volume_of(outcome)
            if waiting is not None:
                waiting.result()
        finally:
            reader.shutdown(cancel_futures=True)


def _deliver(outcome: Outcome, model: Networks, options: Options, deliver: Callable[[Outcome], None]) -> None:
    result = outcome.result
    if isinstance(result, Prediction):
        try:
            result = finish_case(result, model, options)
        except Exception as error:
            result = error
    deliver(Outcome(outcome.case, result, outcome.seconds))


def _volume_of(outcome: Outcome) -> Volume | None:
    return outcome.result.image if isinstance(outcome.result, Prediction) else None


class _Line:
    """The Case at work and the one that is read ahead."""

    def __init__(
        self,
        model: Networks,
        options: Options,
        progress: Progress,
        bound: Bound,
        announce: Callable[[Case, Memory], None] | None,
        reader: ThreadPoolExecutor,
    ) -> None:
        self._model, self._options, self._progress, self._bound = model, options, progress, bound
        self._announce, self._reader = announce, reader
        self._ahead: Future[tuple[Ready, float]] | None = None
        self.delivered: Volume | None = None
        """What is being delivered and still takes memory."""

    def predict(self, case: Case, following: Case | None, waiting: Future[None] | None) -> Outcome:
        """Compute one Case and begin to read the following one; errors become part of the outcome."""
        ahead, self._ahead = self._ahead, None
        started, seconds = time.monotonic(), 0.0
        try:
            size = peek_case_image(case)
            if size is None and ahead is None:
                ahead = self._reader.submit(_read, case, self._model)
            size = ahead.result()[0].prepared.image if size is None and ahead is not None else size
            assert size is not None  # by the header, or read
            layout, memory = choose_layout(size, self._model, self._options, self._bound, case.name)
            if self._announce is not None:
                self._announce(case, memory)
            ready, seconds = ahead.result() if ahead is not None else _read(case, self._model)
            started = time.monotonic()
            needed = memory.host + (writing_bytes(self.delivered, self._model) if self.delivered is not None else 0)
            if waiting is not None and not self._bound.allows(needed):
                waiting.result()
                needed = memory.host
            self._read_ahead(following, needed, size)
            result: Prediction | Exception = predict_ready(ready, self._model, self._options, layout, self._progress)
        except Exception as error:
            result = error
        self._progress.finish()
        return Outcome(case, result, seconds + time.monotonic() - started)

    def _read_ahead(self, following: Case | None, needed: int, like: Volume) -> None:
        """Begin to read if there is memory for it; where no header tells, the following Case is taken for as large."""
        if following is None:
            return
        try:
            size = peek_case_image(following) or like
        except MedsegError:  # said when it is its turn
            return
        if self._bound.allows(needed + reading_bytes(size, self._model)):
            self._ahead = self._reader.submit(_read, following, self._model)


def _read(case: Case, model: Networks) -> tuple[Ready, float]:
    started = time.monotonic()
    ready = read_ready(case, model)
    return ready, time.monotonic() - started
