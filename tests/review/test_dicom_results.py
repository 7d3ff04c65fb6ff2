"""What ``medseg dicom`` wrote is shown on the series that it was found in."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.cli import main
from medseg.images.formats import read_labels
from medseg.review.cache import open_case
from medseg.review.sources import SourceSettings, open_source

from tiny import write_untrained_model
from tiny_dicom import make_series, save, uid

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """``in``: a study whose description is a script; ``out``: its results; ``plain``: the same, de-identified."""
    folder = tmp_path_factory.mktemp("dicom")
    model = write_untrained_model(folder / "M")
    voxels = np.random.default_rng(0).normal(1000, 100, (6, 12, 10)).astype(np.int16)
    series = make_series(
        voxels, name="s", StudyInstanceUID=uid("study"), PatientName="Geheim^P", SeriesDescription=SCRIPT
    )
    save(series, folder / "in" / "Geheim^P")
    words = [f"model={model}", "mirror=false", "step=1", "device=cpu", f"input={folder / 'in'}", 'formats=["nifti"]']
    assert main(["dicom", *words, f"output={folder / 'out'}"]) == 0
    assert main(["dicom", *words, f"output={folder / 'plain'}", "deidentify=true"]) == 0
    return folder


@pytest.mark.parametrize("output", ["out", "plain"])
def test_labels_lie_on_the_images_they_were_found_in(output: str, results: Path) -> None:
    source = open_source(SourceSettings(input=results / output))
    (case,) = source.cases
    one = open_case(case, source.cache)
    (finding,) = case.findings
    assert case.description == (SCRIPT if output == "out" else "")
    assert one.record.orientation_known
    written = read_labels(finding.labels).array
    assert np.array_equal(finding.table.to_values(one.turn.to_file(one.labels(finding))), written)


def test_where_the_images_were_is_told_only_where_that_names_nobody(results: Path) -> None:
    assert (results / "out/.state/images.json").is_file()
    assert not (results / "plain/.state/images.json").exists()


def test_images_that_have_moved_are_found_where_the_user_says_and_missed_in_a_sentence(results: Path, tmp_path) -> None:
    shutil.copytree(results / "out", tmp_path / "out")
    shutil.copytree(results / "in", tmp_path / "moved")
    (tmp_path / "out/.state/images.json").write_text('{"folder": "/nowhere"}')
    source = open_source(SourceSettings(input=tmp_path / "out"))
    assert source.cases == ()
    assert "images=DIR" in source.remarks[0]
    source = open_source(SourceSettings(input=tmp_path / "out", images=tmp_path / "moved"))
    assert len(source.cases) == 1


def test_a_folder_of_dicom_shows_a_case_for_each_series_with_its_description_as_words(results: Path, tmp_path) -> None:
    source = open_source(SourceSettings(input=results / "in", state=tmp_path / "state"))
    (case,) = source.cases
    assert case.description == SCRIPT
    assert "Geheim" not in case.name
    assert open_case(case, source.cache).shape == (6, 12, 10)
