"""Scores of a case: overlap by counting, volumes, and what happens when a structure is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medseg.errors import DatasetError, GeometryError
from medseg.evaluation.metrics import score_case

from tiny import nested_regions, table_named, table_of

TWO = table_named("one", "two")
UNIT = (1.0, 1.0, 1.0)
LABELS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 2))


def two_boxes():
    truth = np.zeros((12, 14, 16), np.uint8)
    truth[2:6, 2:8, 2:8] = 1
    truth[7:11, 5:9, 9:14] = 2
    return truth


@settings(max_examples=30, deadline=None)
@given(LABELS, LABELS)
def test_counts_dice_and_iou_equal_a_loop_over_voxels(prediction, truth):
    case = score_case(prediction, truth, UNIT, TWO)
    for index, scores in enumerate(case.structures, start=1):
        pairs = [(p == index, t == index) for p, t in zip(prediction.ravel(), truth.ravel(), strict=True)]
        tp, fp, fn = (sum(pair == wanted for pair in pairs) for wanted in ((True, True), (True, False), (False, True)))
        assert (scores.tp, scores.fp, scores.fn) == (tp, fp, fn)
        if tp + fp + fn:
            assert scores.dice == pytest.approx(2 * tp / (2 * tp + fp + fn))
            assert scores.iou == pytest.approx(tp / (tp + fp + fn))


@settings(max_examples=20, deadline=None)
@given(LABELS, LABELS)
def test_exchanging_prediction_and_truth_changes_only_what_has_a_direction(prediction, truth):
    there, back = (score_case(*pair, UNIT, TWO) for pair in ((prediction, truth), (truth, prediction)))
    for a, b in zip(there.structures, back.structures, strict=True):
        assert (a.dice, a.iou, a.tp, a.fp, a.fn) == (b.dice, b.iou, b.tp, b.fn, b.fp)
        for metric in ("hd95_mm", "assd_mm", "nsd", "boundary_f1"):
            assert getattr(a, metric) == pytest.approx(getattr(b, metric))
        if a.volume_error_ml is not None:
            assert a.volume_error_ml == -b.volume_error_ml


def test_dice_and_iou_equal_monai():
    torch = pytest.importorskip("torch")
    monai_metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(0)
    prediction, truth = rng.integers(0, 3, (2, 6, 7, 8)).astype(np.uint8)
    onehot = [torch.tensor(np.stack([x == i for i in (1, 2)])[None].astype(np.float32)) for x in (prediction, truth)]
    case = score_case(prediction, truth, UNIT, TWO)
    dice, iou = monai_metrics.compute_dice(*onehot)[0], monai_metrics.compute_iou(*onehot)[0]
    np.testing.assert_allclose([s.dice for s in case.structures], dice.numpy(), rtol=1e-6)
    np.testing.assert_allclose([s.iou for s in case.structures], iou.numpy(), rtol=1e-6)


def test_a_prediction_equal_to_the_truth_is_perfect():
    case = score_case(two_boxes(), two_boxes(), (3.0, 0.8, 0.8), TWO, case="a")
    assert case.case == "a"
    assert case.mean_dice == 1
    for scores in case.structures:
        assert (scores.dice, scores.iou, scores.hd95_mm, scores.assd_mm, scores.volume_error_ml) == (1, 1, 0, 0, 0)
        assert scores.nsd == pytest.approx(1)
        assert scores.boundary_f1 == pytest.approx(1)


def test_volumes_are_millilitres_and_their_error_has_a_sign():
    truth = two_boxes()
    prediction = truth.copy()
    prediction[2:4][prediction[2:4] == 1] = 0
    scores = score_case(prediction, truth, (5.0, 2.0, 1.0), TWO).structures[0]
    assert scores.truth_ml == pytest.approx(144 * 10 / 1000)
    assert scores.prediction_ml == pytest.approx(72 * 10 / 1000)
    assert scores.volume_error_ml == pytest.approx(-0.72)
    assert scores.volume_error_relative == pytest.approx(-0.5)


def test_a_structure_in_neither_array_has_no_scores():
    case = score_case(two_boxes(), two_boxes(), UNIT, table_named("one", "two", "three"))
    absent = case.structures[2]
    assert absent.status == "absent"
    assert [absent.dice, absent.iou, absent.hd95_mm, absent.assd_mm, absent.nsd, absent.boundary_f1] == [None] * 6
    assert case.mean_dice == 1


@pytest.mark.parametrize(("emptied", "status"), [("prediction", "missed"), ("truth", "false_alarm")])
def test_a_structure_in_one_array_only_scores_zero_and_has_no_distance(emptied, status):
    whole, without = two_boxes(), two_boxes()
    without[without == 2] = 0
    pair = (without, whole) if emptied == "prediction" else (whole, without)
    scores = score_case(*pair, UNIT, TWO).structures[1]
    assert scores.status == status
    assert (scores.dice, scores.iou, scores.nsd, scores.boundary_f1) == (0, 0, 0, 0)
    assert (scores.hd95_mm, scores.assd_mm) == (None, None)
    assert scores.volume_error_relative == (-1 if emptied == "prediction" else None)


def test_a_case_without_any_structure_has_no_mean():
    empty = np.zeros((3, 3, 3), np.uint8)
    assert score_case(empty, empty, UNIT, table_named("one")).mean_dice is None


def test_the_crop_changes_no_number():
    truth, prediction = two_boxes(), np.roll(two_boxes(), 1, axis=1)
    small = score_case(prediction, truth, (2.0, 0.9, 1.3), TWO)
    large = score_case(*(np.pad(x, ((9, 3), (0, 30), (17, 5))) for x in (prediction, truth)), (2.0, 0.9, 1.3), TWO)
    assert small == large


def test_spacing_scales_distances():
    truth, prediction = two_boxes(), np.roll(two_boxes(), 1, axis=0)
    near, far = (score_case(prediction, truth, (z, 1.0, 1.0), TWO).structures[0].hd95_mm for z in (1.0, 4.0))
    assert (near, far) == (1.0, 4.0)


def test_a_2d_case_is_scored_by_its_contour_whatever_the_slice_thickness():
    truth = two_boxes()[3:4]
    prediction = np.roll(truth, 1, axis=2)
    thin, thick = (score_case(prediction, truth, (z, 1.0, 1.0), TWO).structures[0] for z in (1.0, 999.0))
    assert thin.hd95_mm == thick.hd95_mm == 1.0
    assert thin.nsd == thick.nsd


def test_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"'a': the prediction has shape \(3, 3, 3\)"):
        score_case(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 4), np.uint8), UNIT, table_named("one"), case="a")


def test_an_index_without_a_name_is_refused():
    with pytest.raises(DatasetError, match="only 0 to 1 have a meaning there"):
        score_case(two_boxes(), two_boxes(), UNIT, table_named("one"))


def test_wide_and_signed_integers_score_the_same():
    narrow = score_case(np.roll(two_boxes(), 1, 0), two_boxes(), UNIT, TWO)
    wide = score_case(np.roll(two_boxes(), 1, 0).astype(np.int64), two_boxes().astype(np.uint16), UNIT, TWO)
    assert narrow == wide


THREE = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))
REGIONS = table_of(2, regions=nested_regions(2))


@settings(max_examples=30, deadline=None)
@given(LABELS, LABELS)
def test_regions_are_scored_as_the_structures_that_they_join(prediction, truth):
    whole, part = score_case(prediction, truth, UNIT, REGIONS).structures
    (joined,) = score_case((prediction > 0).astype("u1"), (truth > 0).astype("u1"), UNIT, table_named("one")).structures
    (alone,) = score_case((prediction > 1).astype("u1"), (truth > 1).astype("u1"), UNIT, table_named("one")).structures
    assert whole.model_copy(update={"name": "one"}) == joined
    assert part.model_copy(update={"name": "one"}) == alone


SPARSE = table_of(2, ignore=255)


@settings(max_examples=40, deadline=None)
@given(LABELS, LABELS, THREE)
def test_what_is_predicted_where_nobody_annotated_changes_no_number(prediction, other, truth):
    truth = np.where(truth == 3, np.uint8(SPARSE.ignore_index), truth)
    changed = np.where(truth == SPARSE.ignore_index, other, prediction)
    assert score_case(prediction, truth, UNIT, SPARSE) == score_case(changed, truth, UNIT, SPARSE)


@settings(max_examples=20, deadline=None)
@given(LABELS, LABELS)
def test_an_ignore_value_that_does_not_occur_changes_no_number(prediction, truth):
    assert score_case(prediction, truth, UNIT, SPARSE) == score_case(prediction, truth, UNIT, table_of(2))


def test_only_surfaces_among_annotated_voxels_count():
    truth, prediction = two_boxes(), np.roll(two_boxes(), 1, axis=0)
    prediction[:, :, 9:] = np.roll(prediction, 3, axis=1)[:, :, 9:]
    known = score_case(prediction, truth, UNIT, TWO).structures
    hidden = truth.copy()
    hidden[:, :, 8:] = SPARSE.ignore_index
    one, two = score_case(prediction, hidden, UNIT, SPARSE).structures
    # The first box ends where annotation does: its last face is unknown, the others are a voxel off along z.
    assert (one.hd95_mm, one.tp, one.fp) == (1.0, known[0].tp, known[0].fp)
    assert one.assd_mm != known[0].assd_mm
    assert (two.status, two.truth_ml, two.prediction_ml) == ("absent", 0, 0)


def test_without_any_annotated_surface_there_is_overlap_but_no_distance():
    truth = np.full((5, 6, 7), SPARSE.ignore_index, np.uint8)
    truth[2, 3, 2:5], prediction = 1, np.ones((5, 6, 7), np.uint8)
    truth[2, 3, 5] = 0
    (one, _) = score_case(prediction, truth, UNIT, SPARSE).structures
    assert (one.status, one.tp, one.fp, one.dice) == ("scored", 3, 1, 6 / 7)
    assert (one.hd95_mm, one.assd_mm, one.nsd, one.boundary_f1) == (None, None, None, None)


def test_a_prediction_that_leaves_voxels_open_is_refused():
    labels = np.full((3, 3, 3), SPARSE.ignore_index, np.uint8)
    assert score_case(np.zeros_like(labels), labels, UNIT, SPARSE).mean_dice is None
    with pytest.raises(DatasetError, match="the prediction hold the indices 3 to 3, but only 0 to 2"):
        score_case(labels, labels, UNIT, SPARSE)
