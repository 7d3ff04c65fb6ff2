"""Results lie on the frames of files that hold many, in whatever order, and on irregular slices."""

import highdicom as hd
import numpy as np
import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.dicom.formats import FILES
from medseg.dicom.origin import Origin
from medseg.dicom.outputs import Found, on_frames, write_outputs
from medseg.images.dicom.intake import take_in
from medseg.images.dicom.verdict import Verdict

from messy_dicom import enhanced
from tiny import asymmetric_labels
from tiny_dicom import make_series, save

TABLE = LabelTable(labels=(Label(name="liver", value=1), Label(name="tumour", value=2)))


def found_in(folder, labels, allow=()) -> Found:
    (series,) = take_in(folder, allow).series
    entropy = labels.astype(np.float32) / 3
    return Found(series, series.read_headers(), series.read(), ("CT",), labels, TABLE, Origin("t", "0" * 64), entropy)


@pytest.mark.parametrize("order", [None, (3, 0, 7, 5, 1, 6, 2, 4)])
def test_an_enhanced_file_carries_results_on_its_own_frames(tmp_path, order):
    labels = asymmetric_labels()
    enhanced(order, make_series(labels.astype(np.int16)), tmp_path / "in")
    found = found_in(tmp_path / "in", labels)
    assert np.array_equal(found.image.array[0] + 1024, labels)  # the volume is in the order of places
    _, remarks = write_outputs(tmp_path, found, ("seg", "sr", "pmap", "rtstruct"))
    assert any("contours refer to single images" in remark for remark in remarks)
    frames = on_frames(found.series, found.headers, labels)
    back = hd.seg.segread(tmp_path / FILES["seg"]).get_pixels_by_source_frame(
        found.headers[0].SOPInstanceUID, list(range(1, 9)), combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(back, frames)
    assert np.array_equal(frames[list(order or range(8)).index(2)], labels[2])


def test_a_series_with_a_gap_gets_results_on_the_slices_that_are_there(tmp_path):
    series = make_series(asymmetric_labels().astype(np.int16))
    save([*series[:3], *series[4:]], tmp_path / "in")
    labels = asymmetric_labels()
    found = found_in(tmp_path / "in", labels, {Verdict.GAP})
    write_outputs(tmp_path, found, ("seg", "sr", "rtstruct"))
    back = hd.seg.segread(tmp_path / FILES["seg"]).get_pixels_by_source_instance(
        [one.uid for one in found.series.slices], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(back, np.delete(labels, 3, axis=0))
