"""Small and rare structures: drawn more often, copied between cases, and hard patches seen again; all reproducible."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from medseg.errors import PlanError
from medseg.files import hash_file
from medseg.planning.plan import AugmentationPlan, SamplingPlan
from medseg.preprocessing.store import prepare_cases
from medseg.progress import Silent
from medseg.training import mining
from medseg.training.checkpoint import load_newest
from medseg.training.copy_paste import make_piece, paste
from medseg.training.fold import train_fold
from medseg.training.mining import Mined, errors_of
from medseg.training.open_cases import OpenCases, component_mask
from medseg.training.patches import PatchDataset, make_loader
from medseg.training.sampling import rare_targets

from tiny import (
    TABLE,
    nested_regions,
    table_named,
    table_of,
    tiny_plan,
    tiny_recipe,
    write_prepared,
    write_tiny_dataset,
)

STRUCTURES = table_of(2)
STILL = AugmentationPlan(rotation=False, scaling=False)


@pytest.fixture
def prepared(tmp_path):
    """Case a holds a large structure 1; case b holds it too, and structure 2 as a large and a tiny component."""
    a, b = np.zeros((24, 24, 24), np.uint8), np.zeros((24, 24, 24), np.uint8)
    a[2:12, 2:12, 2:12] = b[2:12, 2:12, 2:12] = 1
    b[14:20, 14:20, 14:20] = 2
    b[20, 4, 20] = 2
    for name, labels in (("a", a), ("b", b)):
        random = np.random.default_rng(0)
        image = (random.normal(0, 0.1, labels.shape) + labels)[None]
        write_prepared(tmp_path, name, labels, STRUCTURES, image)
    return tmp_path


def patches(prepared, rank=0, world=1, foreground_share=1.0, table=STRUCTURES, **sampling):
    recipe = tiny_recipe(sampling=SamplingPlan(**sampling), augmentation=STILL, foreground_share=foreground_share)
    patch = {"patch_size": (8, 8, 8), "batch_size": 4}
    configuration = recipe.configuration.model_copy(update=patch)
    recipe = recipe.model_copy(update={"labels": table, "configuration": configuration})
    return PatchDataset(prepared, ("a", "b"), recipe, rank, world)


def drawn(dataset, iterations=100):
    """Counts of (Case, target at the patch's centre)."""
    found = Counter()
    for iteration in range(iterations):
        for sample in dataset.samples:
            name, corner = dataset._place(iteration, sample)
            labels = dataset.open.case(name).labels
            found[name, tuple(int(c) for c in corner)] += 1
            z, y, x = (c + 4 for c in corner)
            found[name] += 1
            found[int(labels[z, y, x])] += 1
    return found


def test_without_a_switch_cases_are_drawn_first_and_structures_within_them_alike(prepared):
    found = drawn(patches(prepared))
    assert found["a"] == pytest.approx(200, abs=40)
    assert found[2] == pytest.approx(100, abs=30)


def test_balanced_sampling_draws_a_structure_of_few_cases_as_often_as_any_other(prepared):
    found = drawn(patches(prepared, balanced=True))
    assert found[2] == pytest.approx(200, abs=40)
    assert found["b"] == pytest.approx(300, abs=40)


def test_size_aware_sampling_prefers_small_structures_by_the_root_of_their_volume(prepared):
    found = drawn(patches(prepared, balanced=True, size_aware=True))
    share = (1 / np.sqrt(217)) / (1 / np.sqrt(217) + 1 / np.sqrt(1000))
    assert found[2] / 400 == pytest.approx(share, abs=0.1)


def test_size_aware_sampling_draws_every_component_alike(prepared):
    dataset = patches(prepared, balanced=True, size_aware=True)
    found = drawn(dataset)
    assert found["b", (16, 0, 16)] == pytest.approx(found[2] / 2, abs=40)  # the single voxel at (20, 4, 20)
    assert drawn(patches(prepared, balanced=True))["b", (16, 0, 16)] < 10


def test_a_component_of_which_no_voxel_is_stored_is_found_nevertheless(tmp_path):
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[:30] = 1
    labels[40, 40, 40:42] = 1
    write_prepared(tmp_path, "a", labels, table_of(1))
    large, small = OpenCases(tmp_path, table_of(1), False).components("a", 0)
    assert len(large.places) < 54_000 and len(small.places) >= 1
    assert {tuple(place) for place in small.places.tolist()} <= {(40, 40, 40), (40, 40, 41)}
    assert component_mask(labels, small, 0, table_of(1)).sum() == 2


def test_switched_off_nothing_changes_a_patch(prepared):
    one, two = patches(prepared), patches(prepared, rare=("structure 2",))
    for iteration in range(5):
        assert all(torch.equal(x, y) for x, y in zip(one[iteration], two[iteration], strict=True))


def test_a_rare_structure_is_copied_into_patches_of_cases_that_lack_it(prepared):
    asked = {"copy_paste": 1.0, "rare": ("structure 2",), "foreground_share": 0.0}
    with_copies, without = patches(prepared, **asked), patches(prepared, foreground_share=0.0)
    copied = 0
    for iteration in range(20):
        (images, labels), (same, usual) = with_copies[iteration], without[iteration]
        new = (labels == 2) & (usual != 2)
        copied += int(new.flatten(1).any(1).sum())
        assert (usual[new] == 0).all()  # background surrounded it, and background it replaces
        assert torch.equal(labels[~new], usual[~new])
        far = torch.nn.functional.max_pool3d(new[:, None].float(), 7, 1, 3)[:, 0] == 0
        assert torch.equal(images[:, 0][far], same[:, 0][far])
        if new.any():
            assert images[:, 0][new].mean() == pytest.approx(2, abs=0.4)
    assert copied > 30


def test_the_share_of_patches_with_a_copy_is_the_planned_one(prepared):
    without = patches(prepared, foreground_share=0.0)
    with_copies = patches(prepared, foreground_share=0.0, copy_paste=0.25, rare=("structure 2",))
    changed = [not torch.equal(a, b) for i in range(50) for a, b in zip(with_copies[i][1], without[i][1], strict=True)]
    assert 0.1 < np.mean(changed) < 0.3  # a few copies find no place


def test_copies_follow_from_seed_and_iteration_with_any_number_of_workers_and_ranks(prepared):
    asked = {"balanced": True, "size_aware": True, "copy_paste": 0.7}
    expected = [patches(prepared, **asked)[i] for i in range(3)]
    for workers in (0, 2):
        for batch, other in zip(make_loader(patches(prepared, **asked), 0, 3, workers), expected, strict=True):
            assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])
    halves = [patches(prepared, rank, 2, **asked)[1][0] for rank in range(2)]
    assert torch.equal(torch.cat(halves), expected[1][0])


def test_regions_are_drawn_and_copied_with_all_their_labels(prepared):
    table = table_of(2, regions=nested_regions(2))
    dataset = patches(prepared, table=table, balanced=True, size_aware=True, copy_paste=1.0)
    images, labels = dataset[0]
    assert images.isfinite().all() and set(labels.unique().tolist()) <= {0, 1, 2}


def test_an_unknown_rare_structure_is_refused_with_those_that_exist(prepared):
    with pytest.raises(PlanError, match=r"sampling\.rare names tumour.*it has structure 1, structure 2"):
        patches(prepared, copy_paste=0.5, rare=("tumour",))


def test_a_structure_with_a_side_is_not_copied_to_where_the_other_lies():
    table = table_named("left kidney", "liver", "right kidney")
    assert rare_targets(table, SamplingPlan(copy_paste=0.5)) == (1,)
    with pytest.raises(PlanError, match="left kidney, which has a side"):
        rare_targets(table, SamplingPlan(copy_paste=0.5, rare=("left kidney",)))


def test_a_piece_goes_only_where_its_own_tissue_lies():
    random = np.random.default_rng(0)
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2:7, 2:7, 2:7], labels[4, 4, 4] = 1, 2
    image = labels[None].astype(np.float32)
    piece = make_piece(image[:, 3:6, 3:6, 3:6], labels[3:6, 3:6, 3:6], labels[3:6, 3:6, 3:6] == 2, None)
    assert piece.host == 1 and piece.around == pytest.approx(1)
    elsewhere, plain = np.zeros((1, 9, 9, 9), np.float32), np.zeros((9, 9, 9), np.uint8)
    everywhere = (slice(0, 9),) * 3
    assert paste(elsewhere, plain, piece, everywhere, random) is None and not plain.any()
    plain[:] = 1
    assert paste(elsewhere + 5, plain, piece, everywhere, random) is None  # too bright there to be the same tissue
    where = paste(elsewhere + 1.5, plain, piece, everywhere, random)
    assert where.sum() == 1 and plain[where] == 2


def test_the_hardest_quarter_of_a_round_is_drawn_in_the_next(monkeypatch):
    monkeypatch.setattr(mining, "ROUND", 4)
    mined = Mined()
    for iteration in range(4):
        mined = mined.after(iteration + 1, (0.1 * iteration, 1 - 0.1 * iteration), ((iteration, 0), (iteration, 1)))
    assert mined.hard == ((0, 1), (1, 1)) and mined.seen == ()
    mined = mined.after(5, (0.5, 0.5), ((0, 1), (4, 1)))
    assert mined.hard == ((0, 1), (1, 1)) and len(mined.seen) == 2


def test_hard_patches_are_the_same_patches_again(prepared):
    plain, dataset = patches(prepared), patches(prepared, hard_patches=1.0)
    dataset.hard = ((7, 2),)
    assert dataset.origin(50, 1) == (7, 2)
    images, _ = dataset[50]
    assert all(torch.equal(image, plain[7][0][2]) for image in images)
    half = patches(prepared, hard_patches=0.5)
    half.hard = ((7, 2),)
    again = [half.origin(i, s) == (7, 2) for i in range(100, 150) for s in range(4)]
    assert np.mean(again) == pytest.approx(0.5, abs=0.1)


def test_the_error_of_a_patch_is_its_mean_missing_dice():
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [2, 2, 0, 0]]).reshape(3, 1, 1, 4)
    found = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0], [1, 2, 0, 0]]).reshape(3, 1, 1, 4)
    logits = torch.nn.functional.one_hot(found, 3).movedim(-1, 1).float()
    assert errors_of(logits, labels, STRUCTURES).tolist() == pytest.approx([0.2, 0, (1 + 1 / 3) / 2])


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    dataset = write_tiny_dataset(folder / "data")
    plan = tiny_plan()
    prepare_cases(dataset.cases, TABLE, plan, plan.configurations["3d_fullres"], folder / "prepared")
    return folder / "prepared"


class Stop(Silent):
    """Ends a training after so many of its steps, as Ctrl-C would."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1, **shown):
        self.left -= bool(shown)
        if self.left < 0:
            raise KeyboardInterrupt


def test_with_everything_on_a_resumed_training_ends_in_the_same_bytes_with_workers_too(
    trainable, tmp_path, monkeypatch
):
    monkeypatch.setattr("medseg.training.mining.ROUND", 3)
    monkeypatch.setattr("medseg.training.fold.ROUND", 3)
    sampling = SamplingPlan(balanced=True, size_aware=True, copy_paste=0.5, rare=("ball",), hard_patches=0.5)
    recipe = tiny_recipe(8, every=20, sampling=sampling, loss="dice_ce + 0.5*skeleton_recall")
    fabric = Fabric(accelerator="cpu", devices=1)
    torch.set_num_threads(1)
    train_fold(fabric, recipe, trainable, tmp_path / "whole", Silent(), 2)
    for steps in (4, 3):
        with pytest.raises(KeyboardInterrupt):
            train_fold(fabric, recipe, trainable, tmp_path / "resumed", Stop(steps), 0, 0.0)
    record, _ = load_newest(tmp_path / "resumed", recipe)
    assert record.course.mined.hard and record.course.mined.seen
    train_fold(fabric, recipe, trainable, tmp_path / "resumed", Silent(), 0)
    assert hash_file(tmp_path / "resumed/weights.safetensors") == hash_file(tmp_path / "whole/weights.safetensors")
