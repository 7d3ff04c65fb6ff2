"""Patches come from where the rules say, and follow from the seed and the iteration alone."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from medseg.cases.labels import Label, LabelTable
from medseg.errors import PlanError
from medseg.planning.plan import AugmentationPlan, OptimizerPlan, TrainingPlan
from medseg.preprocessing.store import PreparedRecord, sample_locations
from medseg.training.augmentation_spatial import initial_patch_size
from medseg.training.patches import PatchDataset, cut, make_loader
from medseg.training.recipe import Recipe
from medseg.training.schedule import Part, Stretch

from tiny import shallow_configuration, write_prepared

TABLE = LabelTable(labels=tuple(Label(name=f"structure {value}", value=value) for value in (1, 2, 3)))
STILL = AugmentationPlan(rotation=False, scaling=False)


def a_configuration(patch=(8, 8, 8), batch_size=3, dimensions=3):
    return shallow_configuration(patch, batch_size, dimensions)


def a_recipe(cases=("a", "b"), augmentation=STILL, seed=1, foreground_share=0.33, **configuration):
    return Recipe(
        configuration_name="3d_fullres",
        configuration=a_configuration(**configuration),
        training=TrainingPlan(
            optimizer=OptimizerPlan(name="adamw", learning_rate=1e-3),
            augmentation=augmentation,
            seed=seed,
            foreground_share=foreground_share,
        ),
        parts=(Part(stretch=Stretch(start=0, end=10, rate=1e-3)),),
        fold=0,
        channels=1,
        labels=TABLE,
        plan="0",
        preparation={},
        shaping="none",
        data="none",
        training_cases=cases,
        validation_cases=(),
        threads=1,
    )


@pytest.fixture
def prepared(tmp_path):
    """Case a holds one voxel each of structures 1 and 3; case b none."""
    labels = np.zeros((20, 24, 16), np.uint8)
    labels[0, 12, 15] = 1
    labels[10, 20, 3] = 3
    write_prepared(tmp_path, "a", labels, TABLE)
    write_prepared(tmp_path, "b", np.zeros((6, 30, 16), np.uint8), TABLE)
    return tmp_path


def corners_of(images, shape):
    """The voxel (z, y, x) with which each patch starts, from the image's numbers."""
    return [np.unravel_index(int(image[0, 0, 0, 0]) - 1, shape) for image in images]


def test_other_patches_than_the_forced_ones_lie_around_annotated_voxels(prepared):
    place = prepared / "a"
    record = PreparedRecord.load(place / "case.json")
    record.model_copy(update={"ignores": True}).save(place / "case.json")
    labels = np.full((20, 24, 16), 4, np.uint8)
    labels[5:7, 6, 7], labels[14, 15, 8] = 0, 1
    np.save(place / "labels.npy", labels)
    np.save(place / "locations.npy", sample_locations(labels, TABLE.model_copy(update={"ignore": 9}), "a"))
    dataset = PatchDataset(prepared, ("a",), a_recipe(("a",), foreground_share=0.0))
    corners = {tuple(map(int, c)) for i in range(30) for c in corners_of(dataset[i][0], (20, 24, 16))}
    assert corners == {(1, 2, 3), (2, 2, 3), (10, 11, 4)}
    forced = PatchDataset(prepared, ("a",), a_recipe(("a",), foreground_share=1.0))
    assert {tuple(map(int, c)) for i in range(9) for c in corners_of(forced[i][0], (20, 24, 16))} == {(10, 11, 4)}


def test_the_hippocampus_plan_reads_nnunets_initial_patch():
    assert initial_patch_size(a_configuration((40, 56, 40)), AugmentationPlan()) == (73, 80, 64)


def test_the_initial_patch_is_the_patch_where_nothing_turns():
    assert initial_patch_size(a_configuration((40, 56, 40)), STILL) == (40, 56, 40)


def test_a_thin_patch_is_not_read_thicker():
    assert initial_patch_size(a_configuration((20, 256, 224)), AugmentationPlan()) == (20, 301, 301)


def test_an_elongated_slice_is_read_for_fifteen_degrees():
    found = initial_patch_size(a_configuration((1, 64, 32), dimensions=2), AugmentationPlan())
    angle = math.radians(15)
    assert found == (1, int((64 * math.cos(angle) + 32 * math.sin(angle)) / 0.85), int(32 / 0.85))


def test_a_patch_is_the_region_of_image_and_labels_that_it_says(prepared):
    dataset = PatchDataset(prepared, ["a"], a_recipe(["a"]))
    image, truth = (np.load(prepared / "a" / f"{name}.npy") for name in ("image", "labels"))
    for iteration in range(5):
        images, labels = dataset[iteration]
        assert images.dtype == torch.float32 and labels.dtype == torch.uint8
        assert images.shape == (3, 2, 8, 8, 8) and labels.shape == (3, 8, 8, 8)
        for (z, y, x), one, mark in zip(corners_of(images, truth.shape), images, labels, strict=True):
            assert np.array_equal(one, image[:, z : z + 8, y : y + 8, x : x + 8])
            assert np.array_equal(mark, truth[z : z + 8, y : y + 8, x : x + 8])


def test_the_last_third_of_a_batch_is_centred_on_a_structure(prepared):
    dataset = PatchDataset(prepared, ["a"], a_recipe(["a"]))
    truth = np.load(prepared / "a" / "labels.npy")
    # round(3 * 0.67) = 2 lie anywhere; the third is centred on one of the two voxels, clamped at the border.
    expected = {(0, 8, 8), (6, 16, 0)}
    found = Counter(corners_of(dataset[i][0], truth.shape)[2] for i in range(60))
    assert set(found) == expected
    assert min(found.values()) > 15
    assert all(dataset[i][1][2].any() for i in range(10))


@pytest.mark.parametrize(("batch", "forced"), [(2, 1), (7, 2), (9, 3), (12, 4)])
def test_as_many_patches_are_forced_as_nnunets_rule_says(prepared, batch, forced):
    dataset = PatchDataset(prepared, ["a"], a_recipe(["a"], batch_size=batch))
    assert batch - dataset.first_forced == forced


def test_other_patches_lie_anywhere_in_the_case(prepared):
    dataset = PatchDataset(prepared, ["a"], a_recipe(["a"], foreground_share=0))
    corners = np.array([corner for i in range(150) for corner in corners_of(dataset[i][0], (20, 24, 16))])
    assert corners.min(0).tolist() == [0, 0, 0]
    assert corners.max(0).tolist() == [12, 16, 8]
    assert np.allclose(corners.mean(0), [6, 8, 4], atol=1)


def test_cases_are_drawn_uniformly(prepared):
    dataset = PatchDataset(prepared, ["a", "b"], a_recipe())
    names = Counter(name for i in range(200) for name in dataset.cases_of(i).split(", "))
    assert abs(names["a"] - names["b"]) < 100
    drawn = [chr(int(one[1].max())) for one in dataset[7][0]]
    assert ", ".join(drawn) == dataset.cases_of(7)


def test_a_case_smaller_than_the_patch_lies_in_its_middle_with_zeros_around(prepared):
    images, labels = PatchDataset(prepared, ["b"], a_recipe(["b"]))[0]
    assert images.shape[2:] == (8, 8, 8)
    assert not images[:, :, 0].any() and not images[:, :, 7].any()
    assert (images[:, :, 1:7] > 0).all()
    assert not labels.any()


def test_the_margin_for_rotation_surrounds_the_same_patch(prepared):
    plain = PatchDataset(prepared, ["a"], a_recipe(["a"]))
    wide = PatchDataset(prepared, ["a"], a_recipe(["a"], augmentation=AugmentationPlan()))
    inner = tuple(slice((i - 8) // 2, (i - 8) // 2 + 8) for i in wide.initial)
    assert min(wide.initial) > 8
    for i in range(5):
        assert torch.equal(wide[i][0][(..., *inner)], plain[i][0])


def test_two_dimensional_patches_are_slices(prepared):
    dataset = PatchDataset(prepared, ["a"], a_recipe(["a"], patch=(1, 8, 8), dimensions=2))
    images, _ = dataset[0]
    assert images.shape == (3, 2, 1, 8, 8)
    assert {corners_of(dataset[i][0], (20, 24, 16))[2][0] for i in range(40)} == {0, 10}
    assert len({corners_of(dataset[i][0], (20, 24, 16))[0][0] for i in range(60)}) > 12


def test_a_batch_follows_from_seed_and_iteration_alone(prepared):
    one, two = (PatchDataset(prepared, ["a", "b"], a_recipe()) for _ in range(2))
    one[0], one[3]
    assert torch.equal(one[5][0], two[5][0])
    other = PatchDataset(prepared, ["a", "b"], a_recipe(seed=2))
    assert not all(torch.equal(other[i][0], one[i][0]) for i in range(3))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_one_batch_without_overlap(prepared, world):
    whole = PatchDataset(prepared, ["a", "b"], a_recipe(batch_size=5))[4][0]
    parts = [PatchDataset(prepared, ["a", "b"], a_recipe(batch_size=5), rank, world)[4][0] for rank in range(world)]
    assert torch.equal(torch.cat(parts), whole)


def test_fewer_patches_than_ranks_are_refused(prepared):
    with pytest.raises(PlanError, match="batch of 3 can not be shared by 4"):
        PatchDataset(prepared, ["a"], a_recipe(), 0, 4)


def test_no_cases_are_refused(prepared):
    with pytest.raises(PlanError, match="no case"):
        PatchDataset(prepared, [], a_recipe())


def test_the_loader_gives_the_same_batches_in_order_with_workers_and_after_resuming(prepared):
    dataset = PatchDataset(prepared, ["a", "b"], a_recipe())
    expected = [dataset[i] for i in range(2, 7)]
    for first, workers in ((2, 0), (2, 2), (4, 1)):
        found = list(make_loader(dataset, first, 7, workers))
        assert len(found) == 7 - first
        for (images, labels), (a, b) in zip(found, expected[first - 2 :], strict=True):
            assert torch.equal(images, a) and torch.equal(labels, b)


def test_a_pickled_dataset_opens_its_cases_anew(prepared):
    dataset = PatchDataset(prepared, ["a", "b"], a_recipe())
    batch = dataset[0]
    written = pickle.dumps(dataset)
    assert len(written) < 20_000
    assert torch.equal(pickle.loads(written)[0][0], batch[0])


def test_only_so_many_cases_stay_open(prepared, monkeypatch):
    monkeypatch.setattr("medseg.training.open_cases.MOST_OPEN", 1)
    dataset = PatchDataset(prepared, ["a", "b"], a_recipe())
    for i in range(5):
        dataset[i]
    assert len(dataset.open) == 1


@pytest.mark.parametrize("start", [(-9, 0, 0), (-3, -2, 5), (2, 3, 4), (4, 9, 9), (0, -1, 30)])
def test_a_cut_is_the_padded_array(start):
    array = np.arange(1, 2 * 5 * 6 * 7 + 1).reshape(2, 5, 6, 7)
    padded = np.pad(array, ((0, 0), *[(40, 40)] * 3))
    z, y, x = (s + 40 for s in start)
    expected = padded[:, z : z + 4, y : y + 9, x : x + 5]
    assert np.array_equal(cut(array, start, (4, 9, 5)), expected)
    assert np.array_equal(cut(array, start, (4, 9, 5), outside=7000), np.where(expected == 0, 7000, expected))


def test_outside_of_a_case_nobody_annotated_where_labels_can_say_so(prepared):
    for table, outside in ((TABLE, 0), (TABLE.model_copy(update={"ignore": 9}), 4)):
        recipe = a_recipe(("b",)).model_copy(update={"labels": table})
        _, labels = PatchDataset(prepared, ("b",), recipe)[0]
        assert (labels[:, 0] == outside).all() and (labels[:, -1] == outside).all()  # case b is 6 voxels high
        assert not labels[:, 1:-1].any()
