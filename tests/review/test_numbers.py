"""Numbers beside the picture are those of the patient, not of the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_review import ORIENTATIONS, SPACING, patient, stored, write_patient

from medseg.evaluation.measurements import VolumeInterval
from medseg.images.formats import write_image, write_labels
from medseg.review.cache import open_case
from medseg.review.numbers import distance_mm, measure, under
from medseg.review.windows import CT_WINDOWS, Window, windows_of


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=str)
def test_the_cursor_tells_the_same_place_whatever_way_the_file_is_stored(orientation, tmp_path: Path) -> None:
    volume = stored(patient(), *orientation)
    one = open_case(write_patient(tmp_path, volume), tmp_path / "cache")
    for value, name in ((100, "ball"), (200, None), (300, "box")):
        place = tuple(int(at) for at in np.argwhere(np.asarray(one.image[0]) == value)[0])
        found = under(one, place, 0, one.case.findings[0])
        in_file = np.argwhere(volume.array[0] == value)[0]
        assert found.intensity == value
        assert found.structure == name
        assert found.voxel == tuple(in_file)
        assert np.allclose(found.position_mm, (volume.affine @ [*in_file, 1])[:3])


def test_a_distance_is_measured_in_millimetres(tmp_path: Path) -> None:
    one = open_case(write_patient(tmp_path, patient()), tmp_path / "cache")
    expected = np.linalg.norm(np.array([2, 3, 4]) * SPACING)
    assert distance_mm(one.affine, (1, 2, 3), (3, 5, 7)) == pytest.approx(expected)


def test_structures_are_measured_once_with_interval_and_doubt(tmp_path: Path) -> None:
    volume = patient()
    case = write_patient(tmp_path, volume)
    write_image(tmp_path / "entropy.nii.gz", volume.array[0] / 1000, volume)
    interval = VolumeInterval(low_ml=0.001, high_ml=0.02, rate=0.9)
    finding = replace(case.findings[0], maps={"entropy": tmp_path / "entropy.nii.gz"}, intervals={"ball": interval})
    one = open_case(case, tmp_path / "cache")
    numbers = measure(one, finding)
    ball, box = numbers.lines
    assert ball.volume_ml == pytest.approx(np.prod(SPACING) / 1000)
    assert (ball.volume_low_ml, ball.volume_high_ml, ball.rate) == (0.001, 0.02, 0.9)
    assert (ball.mean_intensity, box.mean_intensity) == (100, 300)
    assert ball.mean_entropy_nats == pytest.approx(0.1, rel=1e-3)
    assert one.image[(0, *ball.centre)] == 100
    (kept,) = (one.folder / "numbers").glob("*.json")
    before = kept.stat().st_mtime_ns
    assert measure(one, finding) == numbers
    assert kept.stat().st_mtime_ns == before


def test_a_structure_that_is_not_there_is_said_to_be_absent(tmp_path: Path) -> None:
    case, volume = write_patient(tmp_path, patient()), patient()
    write_labels(case.findings[0].labels, np.zeros(volume.shape, np.uint8), volume)
    numbers = measure(open_case(case, tmp_path / "cache"), case.findings[0])
    assert numbers.lines == ()
    assert numbers.absent == ("ball", "box")


def test_going_to_a_bent_structure_ends_inside_of_it(tmp_path: Path) -> None:
    case, volume = write_patient(tmp_path, patient()), patient()
    ring = np.zeros(volume.shape, np.uint8)
    ring[4, 2:11, 1:9] = 1
    ring[4, 4:9, 3:7] = 0
    write_labels(case.findings[0].labels, ring, volume)
    one = open_case(case, tmp_path / "cache")
    (line,) = measure(one, case.findings[0]).lines
    assert one.labels(case.findings[0])[line.centre] == 1


def test_ct_gets_the_presets_of_radiology_and_others_percentiles() -> None:
    ct = np.array([-1000.0, 40, 60, 1200])
    assert next(iter(windows_of("CT", ct))) == "abdomen"
    assert set(CT_WINDOWS) < set(windows_of("image", ct))
    assert "abdomen" not in windows_of("MR", np.linspace(0, 900, 50))
    assert "abdomen" not in windows_of("MR", np.linspace(-900, 900.5, 50))
    low, high = np.percentile(np.linspace(0, 900, 50), [1, 99])
    normal = windows_of("MR", np.linspace(0, 900, 50))["normal"]
    assert (normal.low, normal.high) == pytest.approx((low, high))


def test_level_and_width_say_what_is_black_and_white() -> None:
    grey = CT_WINDOWS["brain"].grey(np.array([-1000, 0, 40, 80, 1000]))
    assert grey.tolist() == [0, 0, 127, 255, 255]
    assert Window(centre=0, width=0).grey(np.array([-1, 1])).tolist() == [0, 255]
