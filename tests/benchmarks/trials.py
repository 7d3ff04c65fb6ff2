"""What the benchmarks that train share: a command that has to succeed, its Dice, and a mean with its interval."""

from pathlib import Path

import numpy as np

from medseg.cli import main
from medseg.evaluation.bootstrap import interval, resampled_means
from medseg.evaluation.scores import Scores


def run(*words: str) -> None:
    """One medseg command; its exit code, if any, ends the benchmark."""
    code = main(list(words))
    if code:
        raise SystemExit(code)


def dice_of(scores: Path) -> np.ndarray:
    """(cases, targets) of a scores.json, in order of name; nan where neither truth nor prediction holds a target."""
    cases = sorted(Scores.load(scores).cases, key=lambda case: case.case)
    return np.array([[np.nan if one.dice is None else one.dice for one in case.structures] for case in cases])


def described(values: np.ndarray) -> str:
    """Mean and 95 % interval over cases of (cases,) values."""
    low, high = interval(resampled_means(values[:, None])[:, 0]) or (np.nan, np.nan)
    return f"{np.nanmean(values):7.4f} [{low:7.4f}, {high:7.4f}]"
