"""When has a training stopped getting better? A rule for a noisy sequence of scores.

Knows nothing of what the scores are; they are whole-volume Dice of held-out Cases (``medseg.training.watch``). A line
is fitted through the last third of the planned checks by least squares. The scores have reached a plateau when, at two
checks in a row, its rise over this third is below 0.004 even with one standard error added: noise makes the rule wait
longer, never less. Tried on synthetic courses in ``tests/training/test_plateau.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LEAST_RISE = 0.004
_AGREEING = 2


def has_plateaued(scores: Sequence[float], window: int) -> bool:
    """Whether the last ``window`` (at least 4) scores no longer rise, and neither did those before the last one."""
    ends = range(len(scores) - _AGREEING + 1, len(scores) + 1)
    return ends[0] >= window and all(largest_rise(scores[end - window : end]) < _LEAST_RISE for end in ends)


def largest_rise(scores: Sequence[float]) -> float:
    """The rise of a line through the scores, from the first to one beyond the last, plus one standard error."""
    count = len(scores)
    place = np.arange(count) - (count - 1) / 2
    spread = float(np.sum(place**2))
    slope = float(np.dot(place, scores)) / spread
    rest = np.asarray(scores) - np.mean(scores) - slope * place
    error = np.sqrt(float(np.sum(rest**2)) / (count - 2) / spread)
    return count * (slope + float(error))
