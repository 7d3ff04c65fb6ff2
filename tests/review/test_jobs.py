"""Jobs run our own commands, one after the other, tell how far they are, and can be cancelled."""

import json
import sys
import time
from pathlib import Path

import pytest
from tiny_review import patient, stored, write_patient

from medseg.review.asking import Question, explain_words, explanations_in, lay_out, predict_words
from medseg.review.cache import open_case
from medseg.review.jobs import Job, Queue
from medseg.review.sources import SourceSettings, open_source, with_own_work

from tiny import write_tiny_dataset, write_untrained_model


@pytest.fixture
def queue():
    queue = Queue()
    yield queue
    queue.close()


def test_a_line_of_output_tells_the_step_the_share_and_the_memory() -> None:
    job = Job(1, "x", (), Path("x"))
    for line in (
        "Case 'a' needs up to about 0.4 GB of memory beside the program and its networks.",
        "Tiles: 3/12  2 s",
    ):
        job.hear(line)
    assert (job.memory, job.step, job.share) == ("0.4 GB of memory", "Tiles", 0.25)


@pytest.mark.slow
def test_a_prediction_asked_for_on_the_page_is_a_finding_of_the_case(tmp_path: Path, queue: Queue) -> None:
    write_tiny_dataset(tmp_path / "data", 1)
    model = write_untrained_model(tmp_path / "M")
    source = open_source(SourceSettings(input=tmp_path / "data", model=model))
    case = source.cases[0]
    one = open_case(case, source.cache)
    words = predict_words(one, model, source.inputs / case.name, "none", "fast")
    job = queue.add("predict", "predict", words, source.runs)
    queue.wait(job)
    assert job.state == "done", job.lines
    assert "GB of memory" in job.memory
    (finding, *_) = with_own_work(source).cases[0].findings
    assert finding.name == "run 1"
    assert one.labels(finding).shape == one.shape
    words = explain_words(one, model, source.inputs / case.name, Question("ball", point=(10, 10, 8)))
    job = queue.add("explain", "explain", words, source.explanations)
    queue.wait(job)
    assert job.state == "done", job.lines
    (explained,) = explanations_in(source.explanations, case.name)
    assert explained.verdict
    assert (explained.document.point, explained.document.layer_choice) == ((10, 10, 8), "auto")
    assert one.map(explained.map).shape == one.shape


def test_a_command_that_refuses_fails_with_its_own_sentence(tmp_path: Path, queue: Queue) -> None:
    job = queue.add("x", "check", ["colour=red"], tmp_path / "runs")
    queue.wait(job)
    assert job.state == "failed"
    assert "There is no setting 'colour'" in job.sentence
    assert "Traceback" not in "".join(job.lines)


def test_a_job_that_waits_and_one_that_runs_can_be_cancelled(tmp_path: Path, queue: Queue, monkeypatch) -> None:
    # A command that takes for ever: the real interpreter, but not our module.
    sleeper = tmp_path / "python"
    sleeper.write_text(f"#!{sys.executable}\nimport time, sys\nprint('Sleeping: 1/2', flush=True)\ntime.sleep(600)\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr("medseg.review.jobs.sys.executable", str(sleeper))
    first = queue.add("first", "predict", [], tmp_path / "runs")
    second = queue.add("second", "predict", [], tmp_path / "runs")
    until = time.monotonic() + 60
    while first.share != 0.5 and time.monotonic() < until:
        time.sleep(0.02)
    assert (first.state, second.state, second.number) == ("running", "queued", 2)
    queue.cancel(second)
    queue.cancel(first)
    queue.wait(first)
    assert (first.state, second.state) == ("cancelled", "cancelled")
    assert not first.output.exists()


def test_images_are_laid_out_under_the_cases_own_name(tmp_path: Path) -> None:
    volume = stored(patient(), (2, 0, 1), (True, False, True))
    one = open_case(write_patient(tmp_path, volume, "own_name"), tmp_path / "cache")
    (link,) = lay_out(one, tmp_path / "inputs")
    assert link.name == "own_name.nii.gz"
    assert link.resolve() == one.case.images[0].resolve()
    assert lay_out(one, tmp_path / "inputs") == [link]
    assert json.dumps(predict_words(one, tmp_path, tmp_path / "inputs", "tta", "fast")).count("uncertainty=tta") == 1
