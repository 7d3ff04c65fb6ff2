"""``medseg convert``: a DICOM folder becomes NIfTI files and a manifest."""

import json
from pathlib import Path

import numpy as np

from medseg.cli import main
from medseg.images.formats import read_image

from messy_dicom import CASES
from tiny_dicom import affine_of, coded_voxels, make_series, save


def test_a_series_becomes_a_nifti_file_in_its_place_and_its_name_tells_nothing(tmp_path: Path) -> None:
    save(make_series(), tmp_path / "in")
    (tmp_path / "in/notes.txt").write_text("x")
    assert main(["convert", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]) == 0
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    volume = read_image(file)
    np.testing.assert_array_equal(volume.array[0], coded_voxels() - 1024.0)
    np.testing.assert_allclose(volume.affine, affine_of(), atol=1e-4)
    text = (tmp_path / "out/manifest.json").read_text()
    manifest = json.loads(text)
    assert [entry["outcome"] for entry in manifest["files"]].count("used") == 8
    assert manifest["files"][-1] == {"path": "notes.txt", "outcome": "skipped", "reason": "not DICOM", "series": ""}
    assert manifest["series"][0]["name"] == file.name.removesuffix(".nii.gz")
    assert "Muster" not in text
    assert "p1" not in file.name


def test_a_tilted_series_is_refused_and_on_demand_resampled(tmp_path: Path, capsys) -> None:
    CASES["gantry tilt 15 degrees"].write(tmp_path / "in")
    words = ["convert", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]
    assert main(words) == 2
    assert "slices are tilted by 15.00 degrees" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert main([*words, "allow=[tilted]"]) == 0
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    np.testing.assert_allclose(read_image(file).spacing, (2.5, 0.8, 0.7), atol=1e-6)


def test_a_series_that_can_not_be_decoded_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    CASES["JPEG 2000 with noise inside"].write(tmp_path / "in/a")
    save(make_series(name="good"), tmp_path / "in/b")
    assert main(["convert", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert sorted(entry["accepted"] for entry in manifest["series"]) == [False, True]
    refused = next(entry for entry in manifest["series"] if not entry["accepted"])
    assert "can't be decoded" in refused["detail"]
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
