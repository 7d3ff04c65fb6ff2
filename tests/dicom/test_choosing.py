"""The series for a model's channels are chosen by rules and brought to one grid."""

from pathlib import Path

import numpy as np
import pytest

from medseg.dicom.choosing import choose
from medseg.dicom.study import Study, studies_of
from medseg.errors import DatasetError, GeometryError
from medseg.images.dicom.intake import take_in
from medseg.images.dicom.selection import ChannelRule, SeriesRules

from tiny_dicom import make_series, save

RULES = SeriesRules(channels=(ChannelRule(channel="T1", description="t1"), ChannelRule(channel="T2", description="t2")))


def study_with(folder: Path, **second: object) -> Study:
    voxels = np.random.default_rng(0).normal(100, 10, (8, 12, 10)).astype(np.int16)
    save(make_series(voxels, name="a", SeriesDescription="T1 axial"), folder, "a")
    save(make_series(name="b", **{"voxels": voxels, "SeriesDescription": "T2 axial", **second}), folder, "b")
    (study,) = studies_of(take_in(folder))
    return study


def test_channels_on_one_grid_are_taken_as_they_are(tmp_path):
    choice = choose(study_with(tmp_path), RULES)
    image = choice.read()
    assert image.array.shape == (2, 8, 12, 10)
    assert np.array_equal(image.array[0], image.array[1])
    assert sorted(line.used_for for line in choice.lines) == ["T1", "T2"]
    assert choice.reference.description == "T1 axial"


def test_a_channel_on_another_grid_is_interpolated_and_that_is_said(tmp_path):
    ramp = np.broadcast_to(np.arange(20, dtype=np.int16)[:, None, None] * 100, (20, 14, 12))
    image = choose(study_with(tmp_path, voxels=ramp, spacing=(1.25, 0.8, 0.7)), RULES).read()
    assert np.allclose(image.array[1, :, 5, 5], np.arange(8) * 200 - 1024)
    assert any("was interpolated" in remark for remark in image.remarks)


def test_a_channel_of_another_place_or_frame_of_reference_is_refused(tmp_path):
    choice = choose(study_with(tmp_path / "far", origin=(300.0, 20.0, -100.0)), RULES)
    with pytest.raises(GeometryError, match="covers only 0%"):
        choice.read()
    with pytest.raises(GeometryError, match="another frame of reference"):
        choose(study_with(tmp_path / "other", FrameOfReferenceUID="1.2.3"), RULES)


def test_a_study_without_a_fitting_series_tells_why_without_its_descriptions(tmp_path):
    study = study_with(tmp_path, SeriesDescription="Herr Muster")
    with pytest.raises(DatasetError, match="No series fits the channel 'T2'") as told:
        choose(study, RULES)
    assert "Muster" not in str(told.value)
