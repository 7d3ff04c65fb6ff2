"""A folder of DICOM files becomes series with verdicts, and every file has one outcome."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.cli import main
from medseg.errors import GeometryError
from medseg.images import dicom
from medseg.images.dicom.intake import take_in
from medseg.images.dicom.manifest import Manifest
from medseg.images.dicom.verdict import Verdict

from tiny_dicom import affine_of, coded_voxels, make_series, save


def test_a_plain_series_is_regular_and_every_voxel_lies_where_the_header_says(tmp_path: Path) -> None:
    save(make_series(), tmp_path)
    (series,) = take_in(tmp_path).series
    volume = series.read()
    assert series.verdict == Verdict.REGULAR
    np.testing.assert_array_equal(volume.array[0], coded_voxels() - 1024.0)
    np.testing.assert_allclose(volume.affine, affine_of(), atol=1e-6)


def test_slice_z_of_a_regular_series_is_index_z_and_labels_go_back_as_they_are(tmp_path: Path) -> None:
    save(reversed(make_series()), tmp_path)
    (series,) = take_in(tmp_path).series
    labels = (coded_voxels() % 5).astype(np.uint8)
    assert [header.InstanceNumber for header in series.read_headers()] == list(range(1, 9))
    np.testing.assert_array_equal(series.on_slices(labels), labels)
    with pytest.raises(GeometryError, match=r"should be \(8, 33, 32\)"):
        series.on_slices(labels[1:])


@pytest.mark.parametrize(
    ("orientation", "why"),
    [([2, 0, 0, 0, 2, 0], "has no unit vectors"), ([1, 0, 0, 0.6, 0.8, 0], "has no right angle")],
)
def test_an_orientation_that_is_none_is_refused(tmp_path: Path, orientation: list[float], why: str) -> None:
    save(make_series(ImageOrientationPatient=orientation), tmp_path)
    (series,) = take_in(tmp_path).refused
    assert series.verdict == Verdict.NO_GEOMETRY
    assert why in series.reason


def test_names_that_are_no_unicode_are_in_the_manifest_too(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(make_series(), folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/M\xfcller.txt")).write_text("x")
    manifest = take_in(folder).manifest
    manifest.save(tmp_path / "manifest.json")
    assert r"M\xfcller.txt" in {file.path for file in Manifest.load(tmp_path / "manifest.json").files}


def test_without_the_extra_one_sentence_says_what_to_type(tmp_path: Path, monkeypatch, capsys) -> None:
    save(make_series(), tmp_path / "in")
    monkeypatch.setattr(dicom, "find_spec", lambda _: None)
    assert main(["convert", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == "medseg convert: DICOM needs an extra: pip install 'medseg[dicom]'.\n"


@pytest.mark.real
def test_every_regular_real_series_lies_where_itk_puts_it_and_has_its_voxels(real_data: Path) -> None:
    found = take_in(real_data / "dicom")
    assert len(found.series) >= 4
    assert not found.refused
    for series in found.series:
        volume, image = series.read(), _read_by_itk([str(path) for path in series.files])
        voxels, affine = sitk.GetArrayFromImage(image), _affine_of(image)
        np.testing.assert_array_equal(volume.array[0], voxels.astype(np.float32))
        np.testing.assert_allclose(volume.affine, affine, atol=2e-4)


def _read_by_itk(names: list[str]) -> sitk.Image:
    """In the order of slices, which ITK takes as it is given; its own sorting must agree."""
    reader = sitk.ImageSeriesReader()
    own = reader.GetGDCMSeriesFileNames(str(Path(names[0]).parent))
    assert list(own) in (names, names[::-1])
    reader.SetFileNames(names)
    return reader.Execute()


def _affine_of(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
