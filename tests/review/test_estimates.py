"""The memory of a run is told before it begins, by the command that will run, and so is that it would not fit."""

import time
from pathlib import Path

import pytest

from medseg.review.asking import predict_words
from medseg.review.cache import open_case
from medseg.review.estimates import Estimates
from medseg.review.sources import SourceSettings, open_source

from tiny import write_tiny_dataset, write_untrained_model


def told(estimates: Estimates, words: list[str]):
    until = time.monotonic() + 120
    while (found := estimates.of(words)) is None and time.monotonic() < until:
        time.sleep(0.05)
    assert found is not None
    return found


@pytest.mark.slow
def test_an_estimate_is_made_once_beside_the_page_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "data", 1)
    model = write_untrained_model(tmp_path / "M")
    source = open_source(SourceSettings(input=tmp_path / "data", model=model))
    one = open_case(source.cases[0], source.cache)
    words = predict_words(one, model, source.inputs / one.case.name, "none", "fast")
    estimates = Estimates()
    assert estimates.of(words) is None  # the page goes on
    assert "GB of memory" in told(estimates, words).memory
    assert estimates.of(words) is estimates.of(words)
    assert not source.runs.exists()
    assert not list(source.state.glob("**/run.json"))
    refused = told(estimates, [*words, "max_memory=1MB"])
    assert "GB of memory" in refused.refusal
    assert not refused.memory
