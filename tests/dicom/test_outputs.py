"""DICOM objects are written on the frames of their images and read back as they were."""

import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from scipy.ndimage import binary_fill_holes
from skimage.draw import polygon2mask

from medseg.cases.labels import Label, LabelTable
from medseg.dicom.contours import contour_lines, make_structure_set
from medseg.dicom.origin import Origin
from medseg.dicom.parametric_map import make_entropy_map
from medseg.dicom.segmentation import make_segmentation, segments_of
from medseg.dicom.structured_report import make_report
from medseg.errors import GeometryError
from medseg.evaluation.measurements import VolumeInterval, measure_structure

from tiny import asymmetric_labels
from tiny_dicom import AXIAL, SPACING, make_series

TABLE = LabelTable(
    labels=(
        Label(name="background", value=0),
        Label(name="left kidney", value=1, color=(200, 30, 40)),
        Label(name="odd thing", value=4),
        Label(name="liver", value=9),
    )
)
ORIGIN = Origin("tiny", "ab" * 32)
CORONAL = (1, 0, 0, 0, 0, -1)
OBLIQUE = (0.96, 0.28, 0, -0.28, 0.96, 0)
needs_dciodvfy = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (Debian: dicom3tools) is absent")


def errors(path: Path) -> list[str]:
    """What dciodvfy finds wrong; its exit code is not to be trusted."""
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], check=False, capture_output=True, text=True, errors="replace"
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segmentation_reads_back_voxel_for_voxel(tmp_path, orientation, kind):
    labels = asymmetric_labels()
    sources = make_series(labels, orientation=orientation)
    segments = segments_of(labels, TABLE)
    make_segmentation(sources, labels, segments, ORIGIN, kind).save_as(tmp_path / "seg.dcm")
    back = hd.seg.segread(tmp_path / "seg.dcm")
    frames = back.get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in sources], combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(frames, labels)
    assert [s.SegmentNumber for s in back.SegmentSequence if s.SegmentNumber] == [1, 2]  # no voxel of liver
    first = back.get_segment_description(1)
    assert first.segmented_property_type.meaning == "Kidney"
    assert first.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    shown = hd.color.CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.subtract(shown, (200, 30, 40))).max() <= 1
    assert back.get_segment_description(2).segmented_property_type.meaning == "Tissue"
    assert "not for clinical use" in back.SeriesDescription
    assert "model_sha256" in first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters


def test_slices_whose_cosines_were_rounded_differently_share_one_orientation(tmp_path):
    labels = asymmetric_labels()
    sources = make_series(labels, orientation=OBLIQUE)
    sources[3].ImageOrientationPatient = [0.9600001, 0.28, 0, -0.28, 0.96, 0]
    make_segmentation(sources, labels, segments_of(labels, TABLE), ORIGIN).save_as(tmp_path / "seg.dcm")
    assert sources[3].ImageOrientationPatient[0] == 0.9600001
    sources[3].ImageOrientationPatient = [0.9, 0.4358899, 0, -0.4358899, 0.9, 0]
    with pytest.raises(GeometryError, match="different orientations"):
        make_segmentation(sources, labels, segments_of(labels, TABLE), ORIGIN)


def test_labels_of_another_size_are_refused():
    labels = asymmetric_labels()
    with pytest.raises(GeometryError, match="own grid"):
        make_segmentation(make_series(labels), labels[:-1], segments_of(labels, TABLE), ORIGIN)


def test_regions_that_overlap_become_segments_that_overlap(tmp_path):
    table = LabelTable.validated(
        {
            "labels": [{"name": "oedema", "value": 1}, {"name": "core", "value": 2}],
            "regions": [
                {"name": "whole tumour", "labels": ["oedema", "core"], "written": 1},
                {"name": "tumour core", "labels": ["core"], "written": 2},
            ],
        },
        "test",
    )
    labels, segments = asymmetric_labels(), segments_of(asymmetric_labels(), table)
    make_segmentation(make_series(labels), labels, segments, ORIGIN).save_as(tmp_path / "seg.dcm")
    volume = hd.seg.segread(tmp_path / "seg.dcm").get_volume()
    assert [int(volume.array[..., k].sum()) for k in (0, 1)] == [(labels > 0).sum(), (labels == 2).sum()]
    with pytest.raises(GeometryError, match="overlap"):
        make_segmentation(make_series(labels), labels, segments, ORIGIN, "LABELMAP")


@pytest.mark.parametrize("found", [True, False])
def test_the_report_refers_to_the_segments_and_says_that_nobody_verified_it(tmp_path, found):
    labels = asymmetric_labels()
    sources = make_series(labels)
    affine = np.diag([*SPACING, 1.0])
    image = labels[None].astype(np.float32) * 10
    segments = segments_of(labels, TABLE) if found else []
    measured = {
        s.target.name: measure_structure(s.target.name, s.target.mask(labels), affine, image, ["CT"]) for s in segments
    }
    segmentation = make_segmentation(sources, labels, segments, ORIGIN) if found else None
    make_report(sources, segmentation, segments, measured, ORIGIN).save_as(tmp_path / "sr.dcm")
    report = hd.sr.srread(tmp_path / "sr.dcm")
    assert report.VerificationFlag == "UNVERIFIED"
    assert "not for clinical use" in report.SeriesDescription
    if found:
        group = report.content.get_volumetric_roi_measurement_groups()[0]
        assert group.reference_type.meaning == "Referenced Segment"
        assert group.tracking_uid == segmentation.get_segment_description(1).tracking_uid
        values = {(m.name.meaning, m.derivation and m.derivation.meaning): m.value for m in group.get_measurements()}
        assert values["Volume", None] == pytest.approx((labels == 1).sum() * np.prod(SPACING) / 1000)
        assert values["Attenuation Coefficient", "Mean"] == 10
    else:
        assert "No structure was found" in str(report.content)


def with_interval(measured, low, high):
    known = VolumeInterval(low_ml=low, high_ml=high, rate=0.9)
    return {name: one.model_copy(update={"volume_interval": known}) for name, one in measured.items()}


@pytest.mark.parametrize("volume_is_inside", [True, False])
def test_a_volume_carries_its_interval_in_millilitres(tmp_path, volume_is_inside):
    labels = asymmetric_labels()
    sources, segments = make_series(labels), segments_of(labels, TABLE)[:1]
    plain = measure_structure("left kidney", labels == 1, np.diag([*SPACING, 1.0]))
    low, high = plain.volume_ml + 0.25 - volume_is_inside, plain.volume_ml + 0.5
    measured = with_interval({"left kidney": plain}, low, high)
    segmentation = make_segmentation(sources, labels, segments, ORIGIN)
    make_report(sources, segmentation, segments, measured, ORIGIN).save_as(tmp_path / "sr.dcm")
    (group,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    (volume,) = group.get_measurements(name=codes.SCT.Volume)
    below = volume[0].ContentSequence
    told = {item.name.meaning: item for item in below if item.value_type.value == "NUM"}
    if volume_is_inside:  # TID 310, CID 225
        up, down = (told[f"{side} measurement uncertainty"] for side in ("+, range of upper", "-, range of lower"))
        assert (float(up.value), float(down.value)) == pytest.approx((0.5, 0.75), rel=1e-5)
        assert {up.unit.value, down.unit.value} == {"mL"}
    else:
        assert told == {}
    words = [item.value for item in below if item.name.meaning == "Algorithm Parameters"]
    assert {f"volume_interval_ml={low:.6g} to {high:.6g}", "volume_interval_rate=0.9"} <= set(words)


def test_the_entropy_map_keeps_its_values(tmp_path):
    labels = asymmetric_labels()
    entropy = np.random.default_rng(0).random(labels.shape, np.float32)
    sources = make_series(labels)
    make_entropy_map(sources, entropy, 1.1, ORIGIN).save_as(tmp_path / "map.dcm")
    back = hd.imread(tmp_path / "map.dcm")
    volume = back.get_volume(apply_real_world_transform=False)
    first = [source.ImagePositionPatient[2] for source in sources].index(volume.position[2])
    assert first == len(sources) - 1  # highdicom counts slices against the normal
    assert np.array_equal(volume.array[::-1].astype(np.float32), entropy)


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_contours_filled_by_the_even_odd_rule_are_the_labels_again(tmp_path, orientation):
    labels = asymmetric_labels()
    labels[3, 4, 2] = 0  # a hole
    sources = make_series(labels, orientation=orientation)
    make_structure_set(sources, labels, segments_of(labels, TABLE), ORIGIN).save_as(
        tmp_path / "rt.dcm", enforce_file_format=True
    )
    made = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [item.ROIName for item in made.StructureSetROISequence] == ["left kidney", "odd thing"]
    for item, value in zip(made.ROIContourSequence, (1, 2), strict=True):
        filled = np.zeros(labels.shape, bool)
        for contour in item.ContourSequence:
            index = [s.SOPInstanceUID for s in sources].index(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
            source = sources[index]
            offsets = np.reshape(contour.ContourData, (-1, 3)).astype(float) - np.array(
                source.ImagePositionPatient, float
            )
            columns = offsets @ np.array(source.ImageOrientationPatient[:3], float) / source.PixelSpacing[1]
            rows = offsets @ np.array(source.ImageOrientationPatient[3:], float) / source.PixelSpacing[0]
            filled[index] ^= polygon2mask(labels.shape[1:], np.stack([rows, columns], 1))
        assert np.array_equal(filled, labels == value)


def test_contours_run_half_way_between_voxels():
    plane = np.zeros((5, 5), bool)
    plane[2, 3] = True
    (line,) = contour_lines(plane)
    assert sorted(map(tuple, line)) == [(1.5, 3.0), (2.0, 2.5), (2.0, 3.5), (2.5, 3.0)]
    ring = binary_fill_holes(plane) | np.pad(np.ones((3, 3), bool), 1)
    ring[2, 2] = False
    assert len(list(contour_lines(ring))) == 2


@needs_dciodvfy
def test_an_independent_validator_finds_no_error_in_what_is_written(tmp_path):
    labels = asymmetric_labels()
    sources = make_series(labels)
    assert "PatientBirthDate" not in sources[0]  # real series lack such things
    segments = segments_of(labels, TABLE)
    affine = np.diag([*SPACING, 1.0])
    measured = {s.target.name: measure_structure(s.target.name, s.target.mask(labels), affine) for s in segments}
    segmentation = make_segmentation(sources, labels, segments, ORIGIN)
    made = {
        "seg": segmentation,
        "sr": make_report(sources, segmentation, segments, measured, ORIGIN),
        "interval": make_report(sources, segmentation, segments, with_interval(measured, 0.0, 1000.0), ORIGIN),
        "empty": make_report(sources, None, [], {}, ORIGIN),
        "map": make_entropy_map(sources, np.ones(labels.shape, np.float32), 1.1, ORIGIN),
        "rt": make_structure_set(sources, labels, segments, ORIGIN),
    }
    for name, dataset in made.items():
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    assert {name: errors(tmp_path / f"{name}.dcm") for name in made} == {name: [] for name in made}
