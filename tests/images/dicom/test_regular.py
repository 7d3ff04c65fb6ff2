"""An irregular series that is allowed is interpolated where it lies, and Labels go back to its slices."""

from pathlib import Path

import numpy as np
import pytest

from medseg.errors import DatasetError
from medseg.images.dicom.intake import take_in
from medseg.images.dicom.verdict import Verdict

from messy_dicom import Mess, mixed_spacing, shifted_sideways, tilted, without
from tiny_dicom import make_series, save, set_pixels

MESSES: dict[str, tuple[Mess, Verdict]] = {
    "gap": (without(3), Verdict.GAP),
    "mixed spacing": (mixed_spacing, Verdict.VARIABLE_SPACING),
    "sideways": (shifted_sideways, Verdict.VARIABLE_SPACING),
    "tilted": (tilted, Verdict.TILTED),
}


def places_of(slices) -> np.ndarray:
    """LPS+ mm of every voxel (slices, rows, columns, 3)."""
    y, x = np.indices((33, 32))
    return np.stack([
        np.array(one.ImagePositionPatient, dtype=float) + np.stack([x * 0.7, y * 0.8, 0 * x], axis=-1) for one in slices
    ])  # fmt: skip


def painted(mess: Mess):
    """A series whose brightness is a linear function of the place, so that linear interpolation is exact."""
    slices = mess(make_series())
    for one, place in zip(slices, places_of(slices), strict=True):
        set_pixels(one, np.rint(brightness(place)).astype(np.uint16))
        one.RescaleIntercept = 0
    return slices


def brightness(lps: np.ndarray) -> np.ndarray:
    return 4000 + lps @ np.array([20.0, -30.0, 10.0])


@pytest.mark.parametrize("name", MESSES)
def test_an_allowed_series_is_interpolated_in_its_place(tmp_path: Path, name: str) -> None:
    mess, verdict = MESSES[name]
    slices = painted(mess)
    save(slices, tmp_path)
    assert not take_in(tmp_path).series
    (series,) = take_in(tmp_path, [verdict]).series
    assert series.verdict == verdict
    volume = series.read()
    lps = np.moveaxis(np.indices(volume.shape), 0, -1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    lps = lps * [-1, -1, 1]
    place = places_of(slices)[..., :2]
    low, high = place.min(axis=(1, 2)).max(axis=0) + 1, place.max(axis=(1, 2)).min(axis=0) - 1
    shared = ((lps[..., :2] > low) & (lps[..., :2] < high)).all(axis=-1)  # by all slices; elsewhere is air mixed in
    assert shared.mean() > 0.3
    assert np.abs(volume.array[0] - brightness(lps))[shared].max() < 1  # brightness was rounded


@pytest.mark.parametrize("name", MESSES)
def test_labels_of_the_regular_grid_come_back_to_the_slices(tmp_path: Path, name: str) -> None:
    mess, verdict = MESSES[name]
    slices = painted(mess)
    save(slices, tmp_path)
    (series,) = take_in(tmp_path, [verdict]).series
    affine, shape = series.geometry.affine, series.shape
    assert affine is not None
    assert shape is not None
    lps = (np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
    back = series.on_slices(half(lps).astype(np.uint8))
    place = places_of(slices)
    assert back.shape == place.shape[:3]
    clear = np.abs(place[..., 0] + 19) > 0.71  # further from the border than half a voxel
    np.testing.assert_array_equal(back[clear], half(place).astype(np.uint8)[clear])


def half(lps: np.ndarray) -> np.ndarray:
    return lps[..., 0] > -19


def test_what_makes_no_volume_can_not_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="What can be allowed is: gap, tilted, variable_spacing"):
        take_in(tmp_path, [Verdict.CONFLICT])
