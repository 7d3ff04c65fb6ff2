"""Many studies: each exactly once, whatever is wrong with the others and whenever the process is killed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medseg.cli import main
from medseg.dicom.batch import locked
from medseg.dicom.watch import Arrivals, prune
from medseg.errors import MedsegError
from medseg.images.formats import read_labels

from tiny import write_untrained_model
from tiny_dicom import make_series, save, uid

PATIENT = "Geheim^Person"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_untrained_model(tmp_path_factory.mktemp("model") / "W")


def write_study(folder: Path, number: int, **attributes: object) -> list[Path]:
    """One series of a study of its own, with noise for pixels."""
    voxels = np.random.default_rng(number).normal(1000, 100, (6, 12, 10)).astype(np.int16)
    series = make_series(
        voxels, name=f"s{number}", StudyInstanceUID=uid("study", number), PatientName=PATIENT,
        PatientID=f"PID-{number}", **attributes,
    )  # fmt: skip
    return save(series, folder / f"{PATIENT}_{number}")


def run(output: Path, model: Path, *words: str) -> int:
    """Without pictures, which take longest, unless formats are named."""
    words = words if any(word.startswith("formats=") for word in words) else (*words, 'formats=["seg","csv"]')
    return main(command(output, model, *words))


def command(output: Path, model: Path, *words: str) -> list[str]:
    return ["dicom", f"output={output}", f"model={model}", "mirror=false", "step=1", "device=cpu", *words]


def report(output: Path) -> dict:
    return json.loads((output / "report.json").read_text())


def test_a_study_that_fails_does_not_stop_the_others(tmp_path, model, capsys):
    for number in range(3):
        paths = write_study(tmp_path / "in", number)
    paths[2].unlink()  # a gap in the last one
    (tmp_path / "in" / "notes.txt").write_text("x")
    formats = 'formats=["seg","sr","nifti","csv","png"]'
    assert run(tmp_path / "out", model, f"input={tmp_path / 'in'}", formats) == 2
    told = capsys.readouterr()
    assert "2 of 3 studies done" in told.out
    content = report(tmp_path / "out")
    (failed,) = (study for study in content["studies"] if study["status"] == "failed")
    assert failed["series"][0]["verdict"] == "gap"
    assert content["files"] == {"used": 12, "refused": 5, "skipped": 1}
    done = [study for study in content["studies"] if study["status"] == "done"]
    for study in done:
        names = {"segmentation.dcm", "report.dcm", "labels.nii.gz", "labels.yaml", "measurements.csv", "overlay.png"}
        assert {path.name for path in (tmp_path / "out" / study["study"]).iterdir()} == {*names, "study.json"}
    assert not (tmp_path / "out" / failed["study"]).exists()
    assert not list((tmp_path / "out").glob(".partial*"))


def test_neither_files_nor_logs_name_the_patient(tmp_path, model, capsys):
    write_study(tmp_path / "in", 1)
    write_study(tmp_path / "in", 2)[1].write_bytes(b"\0" * 128 + b"DICM" + b"damaged")
    run(tmp_path / "out", model, f"input={tmp_path / 'in'}")
    told = capsys.readouterr()
    page = (tmp_path / "out" / "report.html").read_text() + (tmp_path / "out" / "report.json").read_text()
    assert [text for text in (told.out, told.err, page) if "Geheim" in text or "PID-" in text] == []
    assert [path for path in (tmp_path / "out").rglob("*") if "Geheim" in str(path)] == []


def test_results_lie_on_the_frames_of_the_images_and_agree_with_one_another(tmp_path, model):
    write_study(tmp_path / "in", 1)
    run(tmp_path / "out", model, f"input={tmp_path / 'in'}", 'formats=["seg","nifti","csv","pmap","rtstruct","sr"]')
    (study,) = report(tmp_path / "out")["studies"]
    folder = tmp_path / "out" / study["study"]
    labels = read_labels(folder / "labels.nii.gz").array
    files = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    sources = sorted(map(pydicom.dcmread, files), key=lambda dataset: dataset.InstanceNumber)
    segmentation = hd.seg.segread(folder / "segmentation.dcm")
    frames = segmentation.get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in sources], combine_segments=True, assert_missing_frames_are_empty=True
    )
    present = sorted(set(np.unique(labels)) - {0})
    assert len(present) > 0
    assert np.array_equal(np.array([0, *present])[frames], labels)
    with (folder / "measurements.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["voxels"]) for row in rows] == [(labels == value).sum() for value in present]
    assert 0 < float(rows[0]["mean_entropy_nats"]) < np.log(3)
    assert pydicom.dcmread(folder / "entropy.dcm").Modality == "OT"
    assert pydicom.dcmread(folder / "segmentation.dcm").PatientName == PATIENT  # a result belongs to its patient


def test_a_second_start_does_only_what_is_new(tmp_path, model, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    write_study(folder, 1)
    write_study(folder, 2)
    assert run(output, model, f"input={folder}") == 0
    before = {path: path.stat().st_mtime_ns for path in output.glob("[!.]*/study.json")}
    paths = write_study(folder, 3)
    assert run(output, model, f"input={folder}") == 0
    assert len(report(output)["earlier"]) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    dataset = pydicom.dcmread(paths[0])
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(paths[0])
    assert run(output, model, f"input={folder}") == 0
    assert len(report(output)["earlier"]) == 2  # its content is another
    other = write_untrained_model(tmp_path / "other", seed=1)
    assert run(output, other, f"input={folder}") == 0
    assert report(output)["earlier"] == []


def test_deidentified_results_hold_nothing_of_the_patient_and_fit_their_images(tmp_path, model):
    write_study(tmp_path / "in", 1, PatientBirthDate="19551224", StudyDate="20190304", InstitutionName="Hospital X")
    words = ['formats=["seg","sr","rtstruct","pmap"]', "deidentify=true"]
    assert run(tmp_path / "out", model, f"input={tmp_path / 'in'}", *words) == 0
    (study,) = report(tmp_path / "out")["studies"]
    folder = tmp_path / "out" / study["study"]
    secrets = [
        b"Geheim",
        b"PID-1",
        b"19551224",
        b"20190304",
        b"Hospital X",
        uid("study", 1).encode(),
        uid("s1").encode(),
    ]
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        assert [secret for secret in secrets if secret in path.read_bytes()] == [], path.name
    copies = [pydicom.dcmread(path) for path in sorted((folder / "images").iterdir())]
    segmentation = hd.seg.segread(folder / "segmentation.dcm")
    referenced = {source[2] for source in segmentation.get_source_image_uids()}
    assert referenced == {ds.SOPInstanceUID for ds in copies}
    assert segmentation.PatientID == copies[0].PatientID
    assert segmentation.PatientIdentityRemoved == "YES"


def test_two_processes_cannot_share_an_output_folder(tmp_path):
    with locked(tmp_path), pytest.raises(MedsegError, match="Another process"), locked(tmp_path):
        pass


def _killed_then_started_again(tmp_path: Path, model: Path, count: int) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(count):
        write_study(folder, number)
    words = (output, model, f"input={folder}", 'formats=["seg","csv"]')
    # A process of its own: a fork of this one would wait for ever for the threads of torch, which are not copied.
    process = subprocess.Popen([sys.executable, "-m", "medseg", *command(*words)], stdout=subprocess.DEVNULL)
    while len(list(output.glob("[!.]*/study.json"))) < count // 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()  # SIGKILL
    assert process.wait() == -9
    done = {path: path.stat().st_mtime_ns for path in output.glob("[!.]*/study.json")}
    assert count // 2 <= len(done) < count
    assert run(*words) == 0
    content = report(output)
    assert len(content["studies"]) == count
    assert all(study["status"] == "done" for study in content["studies"])
    assert sorted(content["earlier"]) == sorted(path.parent.name for path in done)
    assert {path: path.stat().st_mtime_ns for path in done} == done  # none of them twice
    assert len(list(output.glob("[!.]*/study.json"))) == count
    assert not list(output.glob(".partial*"))


def test_a_batch_killed_half_way_does_each_study_exactly_once(tmp_path, model):
    _killed_then_started_again(tmp_path, model, 6)


@pytest.mark.slow
def test_two_hundred_studies_killed_half_way_are_each_done_exactly_once(tmp_path, model):
    _killed_then_started_again(tmp_path, model, 200)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_study_is_handed_over_once_when_it_has_settled(tmp_path):
    clock = Clock()
    arrivals = Arrivals(tmp_path, settle_seconds=10, clock=clock)
    paths = write_study(tmp_path, 1)
    hidden = paths[3].rename(tmp_path / ".incoming")
    assert arrivals.look() == []
    clock.now = 9
    hidden.rename(paths[3])
    write_study(tmp_path, 2)
    clock.now = 12
    assert arrivals.look() == []  # another image came
    clock.now = 22
    assert sorted(len(files) for _, files in arrivals.look()) == [6, 6]
    clock.now = 100
    assert arrivals.look() == []
    late = paths[0].with_name("late")
    shutil.copyfile(paths[0], late)
    assert arrivals.look() == []
    clock.now = 111
    assert [(study, len(files)) for study, files in arrivals.look()] == [(uid("study", 1), 7)]


def test_received_studies_are_deleted_oldest_first_and_never_before_they_are_done(tmp_path):
    for number, name in enumerate(("old", "waiting", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(bytes(1000))
        stamp = 1_000_000 + number
        os.utime(tmp_path / name / "x", (stamp, stamp))
    assert prune(tmp_path, 2500, lambda inner: inner.name == "waiting") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "waiting"]
    assert prune(tmp_path, 0, lambda inner: inner.name == "waiting") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["waiting"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Say where studies come from"),
        (["input=a", "watch=b"], "not input and watch together"),
        (["fetch=PACS@host", "query={}"], "Say which studies"),
        (["input=nowhere"], "no folder nowhere"),
        (["listen=11112", "bind=0.0.0.0"], "anybody in the network could send"),
    ],
)
def test_a_wrong_source_is_told_in_a_sentence(tmp_path, model, capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path / "out", model, *words) == 2
    assert sentence in capsys.readouterr().err
