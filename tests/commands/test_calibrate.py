"""From trained folds to ``calibration.json``, and a bundle that carries it."""

import csv
import shutil

import numpy as np
import pytest

from medseg.cases.case import read_case_image
from medseg.cases.formats import read_dataset
from medseg.cli import main
from medseg.dicom.record import RunReport
from medseg.images.dicom.manifest import Manifest
from medseg.images.formats import read_image, read_labels, write_image
from medseg.images.volume import Volume
from medseg.inference.bundle import open_model
from medseg.run_record import RunRecord
from medseg.uncertainty.calibration import Calibration
from medseg.uncertainty.case import MAPS
from medseg.uncertainty.familiarity import Familiarity
from medseg.uncertainty.judge import judge_volume
from medseg.uncertainty.summary import UncertaintySummary

from tiny import write_tiny_workspace
from tiny_dicom import make_series, save


def test_held_out_cases_give_temperatures_coverage_and_quality(trained):
    found = Calibration.load(trained.calibration)
    assert found.cases == 5
    assert found.identities == {"3d_fullres": open_model(trained.folder).load("3d_fullres", [0, 1]).identity}
    assert found.temperature != 1
    assert 0 < found.before.voxels <= found.before_everywhere.voxels == pytest.approx(5 * 20 * 24 * 16)
    assert found.after.nll < found.before.nll
    assert [one.name for one in found.structures] == ["ball", "box"]
    for structure in found.structures:
        assert len(structure.numbers.outer) == len(structure.numbers.volume) == 5
        assert structure.coverage["outer"].cases == 5
    assert trained.calibration.with_suffix(".png").stat().st_size > 10_000


def test_a_bundle_carries_it_without_a_case_s_name(trained, tmp_path):
    assert main(["bundle", f"workspace={trained.folder}", f"output={tmp_path / 'bundle'}"]) == 0
    carried = open_model(tmp_path / "bundle").calibration
    assert carried is not None
    assert Calibration.load(carried) == Calibration.load(trained.calibration)
    assert "case_0" not in carried.read_text()


def test_the_same_cases_give_the_same_bytes(trained):
    before = trained.calibration.read_bytes()
    assert main(["calibrate", f"workspace={trained.folder}", "rate=0.6"]) == 0
    assert trained.calibration.read_bytes() == before


def predict(workspace, output, *words):
    images = read_dataset(workspace.dataset).cases[0].images[0].parent
    model = f"model={workspace.folder}"
    return main(["predict", model, f"input={images}", f"output={output}", "picture=false", "device=cpu", *words])


def test_prediction_adds_maps_contours_and_a_worklist_and_leaves_the_labels_alone(trained, tmp_path, capsys):
    assert predict(trained, tmp_path / "plain", "mirror=true") == 0
    assert predict(trained, tmp_path / "sure", "uncertainty=tta", "rate=0.6") == 0
    assert "Most urgent first" in capsys.readouterr().out
    summary = UncertaintySummary.load(tmp_path / "sure" / "uncertainty.json")
    assert summary.is_calibrated
    assert len(summary.cases) == 5
    scores = [case.review_score for case in summary.cases]
    assert scores == sorted(scores, reverse=True)
    rows = list(csv.DictReader((tmp_path / "sure" / "worklist.csv").read_text().splitlines()))
    assert [row["case"] for row in rows[::2]] == [case.case for case in summary.cases]
    name = summary.cases[0].case
    image = read_case_image(read_dataset(trained.dataset).cases[0], 1)
    for kind in MAPS:
        found = read_image(tmp_path / "sure" / "uncertainty" / name / f"{kind}.nii.gz")
        assert found.shape == image.shape
        np.testing.assert_allclose(found.affine, image.affine)
        assert found.array.min() >= 0
    assert read_labels(tmp_path / "sure" / "uncertainty" / name / "contours_2.nii.gz").shape == image.shape
    for case in summary.cases:
        plain, sure = (read_labels(tmp_path / folder / f"{case.case}.nii.gz").array for folder in ("plain", "sure"))
        np.testing.assert_array_equal(plain, sure)


def test_results_of_a_dicom_study_tell_the_interval_that_predict_guarantees(trained, tmp_path, capsys):
    image = read_case_image(read_dataset(trained.dataset).cases[0], 1)
    save(make_series(image.array[0].astype(np.int16), spacing=(1, 1, 1)), tmp_path / "in")
    words = [f"model={trained.folder}", f"input={tmp_path / 'in'}", "device=cpu", "mirror=true"]
    out = tmp_path / "out"
    assert main(["dicom", f"output={out}", *words, "rate=0.6", 'formats=["sr","csv"]']) == 0
    assert main(["predict", f"output={tmp_path / 'sure'}", *words, "rate=0.6", "uncertainty=tta", "picture=false"]) == 0
    (case,) = UncertaintySummary.load(tmp_path / "sure" / "uncertainty.json").cases
    wanted = {one.estimate.name: one.guaranteed for one in case.structures}
    (study,) = RunReport.load(out / "report.json").studies
    rows = list(csv.DictReader((out / study.study / "measurements.csv").read_text().splitlines()))
    assert [row["structure"] for row in rows] == [one.structure for one in study.measurements] != []
    report = (out / study.study / "report.dcm").read_bytes()
    for one, row in zip(study.measurements, rows, strict=True):
        known, bounds = one.volume_interval, wanted[one.structure]
        assert 0 <= known.low_ml < known.high_ml
        assert (known.low_ml, known.high_ml) == pytest.approx((bounds.volume_low_ml, bounds.volume_high_ml), rel=1e-4)
        told = (float(row["volume_low_ml"]), float(row["volume_high_ml"]), float(row["volume_rate"]))
        assert told == pytest.approx((known.low_ml, known.high_ml, 0.6), rel=1e-5)
        assert f"volume_interval_ml={known.low_ml:.6g} to {known.high_ml:.6g}".encode() in report
        assert f"{known.low_ml:.2f} to {known.high_ml:.2f} (0.6 of cases)" in (out / "report.html").read_text()
    capsys.readouterr()
    assert main(["dicom", f"output={out}", *words, "rate=0.9", 'formats=["csv"]']) == 0  # five cases are too few
    assert "No interval for the volume of ball, box: too few held-out cases" in capsys.readouterr().out
    (study,) = RunReport.load(out / "report.json").studies
    assert {one.volume_interval for one in study.measurements} == {None}
    assert "volume_low_ml" not in (out / study.study / "measurements.csv").read_text()


def test_an_unusual_image_is_warned_of_in_every_output(trained, tmp_path, capsys):
    images = read_dataset(trained.dataset).cases[0].images[0].parent
    assert Familiarity.load(trained.familiarity).cases == 5
    (tmp_path / "in").mkdir()
    shutil.copy(images / "0.nii.gz", tmp_path / "in" / "usual.nii.gz")
    image = read_image(images / "1.nii.gz")
    blown_up = Volume(image.array, image.affine @ np.diag([4.0, 4.0, 4.0, 1.0]))
    write_image(tmp_path / "in" / "unusual.nii.gz", blown_up.array, blown_up)
    words = [f"model={trained.folder}", "device=cpu"]
    out = tmp_path / "out"
    assert (
        main(["predict", f"input={tmp_path / 'in'}", f"output={out}", "uncertainty=tta", "picture=false", *words]) == 0
    )
    printed = capsys.readouterr().out
    assert "Unlike the 5 held-out cases" in printed
    assert "Unusual images, which stand first: unusual" in printed
    first, second = UncertaintySummary.load(out / "uncertainty.json").cases
    assert (first.case, second.warning) == ("unusual", None)
    assert "spacing along" in first.warning
    rows = list(csv.DictReader((out / "worklist.csv").read_text().splitlines()))
    assert rows[0]["warning"] == first.warning
    assert rows[-1]["warning"] == ""
    assert first.warning in RunRecord.load(out / "run.json").facts["cases"]["unusual"]["remarks"]
    assert main(["report", f"predictions={out}"]) == 0
    assert "Unlike the 5 held-out cases" in (out / "report" / "cases" / "unusual.html").read_text()
    assert "Unlike the 5 held-out cases" not in (out / "report" / "cases" / "usual.html").read_text()
    save(make_series(image.array[0].astype(np.int16), spacing=(4, 4, 4)), tmp_path / "dicom")
    assert main(["dicom", f"input={tmp_path / 'dicom'}", f"output={tmp_path / 'd'}", *words, 'formats=["sr"]']) == 0
    (study,) = RunReport.load(tmp_path / "d" / "report.json").studies
    assert "Unlike the 5 held-out cases" in study.remarks[0]
    assert [one.warning for one in Manifest.load(tmp_path / "d" / "manifest.json").series] == [study.remarks[0]]
    assert "Unlike the 5 held-out cases" in (tmp_path / "d" / "report.html").read_text()
    again = tmp_path / "again"
    assert main(["predict", f"input={tmp_path / 'dicom'}", f"output={again}", "picture=false", *words]) == 0
    assert [one.warning for one in Manifest.load(again / "manifest.json").series] == [study.remarks[0]]
    assert b"unusual-image" in (tmp_path / "d" / study.study / "report.dcm").read_bytes()
    model = open_model(trained.folder)
    assert judge_volume(blown_up, model, model.load()).warning == first.warning


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["uncertainty=ensemble", "folds=[0]"], "there is only one. Train more folds"),
        (["uncertainty=tta", "folds=[0]", "mirror=false"], "there is only one. Allow mirror=true"),
        (["uncertainty=tta", "combine=logits"], "needs averaged probabilities"),
        (["uncertainty=dropout"], "uncertainty"),
    ],
)
def test_what_can_not_disagree_is_refused_in_one_sentence(trained, tmp_path, capsys, words, sentence):
    assert predict(trained, tmp_path / "out", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_other_networks_is_refused(trained, tmp_path, capsys):
    before = trained.calibration.read_text()
    try:
        Calibration.load(trained.calibration).model_copy(update={"identities": {"3d_fullres": "x"}}).save(
            trained.calibration
        )
        assert predict(trained, tmp_path / "out", "uncertainty=tta") == 2
    finally:
        trained.calibration.write_text(before)
    assert "Run 'medseg calibrate' again" in capsys.readouterr().err


def test_without_a_trained_fold_one_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace = write_tiny_workspace(tmp_path)
    assert main(["calibrate", f"workspace={workspace}"]) == 2
    assert "no trained fold" in capsys.readouterr().err
