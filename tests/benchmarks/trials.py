"""What the benchmarks that train share: a command that has to succeed, and a mean with its interval."""

import numpy as np

from medseg.cli import main
from medseg.evaluation.bootstrap import interval, resampled_means


def run(*words: str) -> None:
    """One medseg command; its exit code, if any, ends the benchmark."""
    code = main(list(words))
    if code:
        raise SystemExit(code)


def described(values: np.ndarray) -> str:
    """Mean and 95 % interval over cases of (cases,) values."""
    low, high = interval(resampled_means(values[:, None])[:, 0]) or (np.nan, np.nan)
    return f"{np.nanmean(values):7.4f} [{low:7.4f}, {high:7.4f}]"
