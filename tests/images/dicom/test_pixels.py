"""Every transfer syntax is decoded, with permissively licensed plugins or by ITK, and values are the modality's."""

from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.pixels.decoders import base
from pydicom.uid import JPEGLosslessSV1

from medseg.errors import ImageFileError
from medseg.images.dicom.intake import take_in
from medseg.images.dicom.pixels import read_frames

from messy_dicom import CASES
from tiny_dicom import coded_voxels, make_series, save, set_pixels

FILES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_padded.dcm",
    "JPEG-lossy.dcm",
    "JPEG2000.dcm",
    "693_J2KI.dcm",
    "JPEGLSNearLossless_16.dcm",
)
"""Of pydicom's own wheel."""


def by_itk(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))


def in_wheel(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_itk_reads(name: str) -> None:
    path = in_wheel(name)
    count = int(pydicom.dcmread(path, stop_before_pixels=True, force=True).get("NumberOfFrames", 1))
    values, _ = read_frames(path, range(count))
    expected = by_itk(path).reshape(values.shape)
    lossy = name == "JPEG-lossy.dcm"  # decoders round the transform differently
    np.testing.assert_allclose(values, expected, atol=1 if lossy else 0)


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "JPEG-lossy.dcm"])
def test_what_no_plugin_decodes_is_decoded_by_itk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = in_wheel(name)
    monkeypatch.setattr(base.Decoder, "_validate_plugins", lambda *_: {})
    values, _ = read_frames(path, [0])
    np.testing.assert_array_equal(values[0], np.squeeze(by_itk(path)))


def test_lossless_jpeg_as_old_archives_hold_it_is_exact(tmp_path: Path) -> None:
    (tmp_path / "jpeg").mkdir()
    for path in save(make_series(), tmp_path / "plain"):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(tmp_path / "jpeg" / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    (series,) = take_in(tmp_path / "jpeg").series
    assert pydicom.dcmread(series.files[0]).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    np.testing.assert_array_equal(series.read().array[0], coded_voxels() - 1024.0)


def test_itk_neither_inverts_nor_rescales_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CASES["MONOCHROME1, JPEG-LS"].write(tmp_path)
    monkeypatch.setattr(base.Decoder, "_validate_plugins", lambda *_: {})
    (series,) = take_in(tmp_path).series
    np.testing.assert_array_equal(series.read().array[0], coded_voxels() - 1024.0)


def test_padding_becomes_air(tmp_path: Path) -> None:
    CASES["padding"].write(tmp_path / "ct")
    (series,) = take_in(tmp_path / "ct").series
    corner = series.read().array[0, :, :2, :2]
    assert (corner == -1000).all()
    pet = make_series(Modality="PT", RescaleIntercept=0)
    for one in pet:
        pixels = one.pixel_array.astype(np.int16)
        pixels[0, 0] = -5
        set_pixels(one, pixels)
        one.PixelPaddingValue = -5
    save(pet, tmp_path / "pet")
    (series,) = take_in(tmp_path / "pet").series
    assert (series.read().array[0, :, 0, 0] == 0).all()


def test_an_x_ray_in_monochrome1_is_turned_so_that_bone_is_bright(tmp_path: Path) -> None:
    (one,) = make_series(coded_voxels()[:1], Modality="DX", PhotometricInterpretation="MONOCHROME1")
    one.RescaleIntercept = 0
    (path,) = save([one], tmp_path)
    np.testing.assert_array_equal(read_frames(path, [0])[0][0], 65535 - coded_voxels()[0].astype(np.float32))


def test_pixels_that_are_noise_are_refused_by_name(tmp_path: Path) -> None:
    CASES["JPEG 2000 with noise inside"].write(tmp_path)
    (series,) = take_in(tmp_path).series
    with pytest.raises(ImageFileError, match="can't be decoded"):
        series.read()
