"""Every loss in one battery; Dice and cross-entropy against brute force, nnU-Net, MONAI, and over two processes.

The values of the other losses are held against brute force in ``test_loss_values.py``.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.nnunet_cases import loss_batch

from medseg.documents import dump_yaml
from medseg.errors import PlanError
from medseg.planning.losses import LOSSES as SUMMARIES
from medseg.training.dice import any_of, patch_dice
from medseg.training.losses import LOSSES, build_loss, shrink_labels, supervision_weights

from tiny import nested_regions, table_of


def some_batch(batch=2, classes=4, size=(3, 4, 5), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=dtype)
    return logits, torch.randint(0, classes, (batch, *size), generator=generator)


def by_hand(logits, labels, batch_dice, table):
    """The definition, voxel by voxel in Python."""
    batch, ignore = len(logits), table.ignore_index
    z = logits.numpy().astype(np.float64).reshape(batch, logits.shape[1], -1)
    truth = labels.numpy().reshape(batch, -1)
    voxels = [(b, v) for b in range(batch) for v in range(truth.shape[1]) if truth[b, v] != ignore]
    if table.activation == "softmax":
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        cross = [-math.log(p[b, truth[b, v], v]) for b, v in voxels]
        p = p[:, 1:]
    else:
        p = 1 / (1 + np.exp(-z))
        inside = [[truth[b, v] in target.indices for target in table.targets] for b, v in voxels]
        cross = [
            -math.log(p[b, k, v] if here else 1 - p[b, k, v])
            for (b, v), answers in zip(voxels, inside, strict=True)
            for k, here in enumerate(answers)
        ]
    groups = [list(range(batch))] if batch_dice else [[b] for b in range(batch)]
    scores = []
    for group in groups:
        chosen = [(b, v) for b, v in voxels if b in group]
        for k, target in enumerate(table.targets):
            both = sum(p[b, k, v] for b, v in chosen if truth[b, v] in target.indices)
            total = sum(p[b, k, v] + (truth[b, v] in target.indices) for b, v in chosen)
            scores.append((2 * both + 1e-5) / (total + 1e-5))
    return sum(cross) / len(cross) - sum(scores) / len(scores)


STRUCTURES = table_of(3)
REGIONS = table_of(3, regions=nested_regions(3)[:2])
TABLES = {
    "structures": STRUCTURES,
    "structures, ignoring": table_of(3, ignore=9),
    "regions": REGIONS,
    "regions, ignoring": table_of(3, ignore=9, regions=nested_regions(3)[:2]),
}


def batch_for(table, *args, **more):
    """Logits for the table's outputs, and labels of every value that it knows."""
    logits, labels = some_batch(*args, classes=len(table.known_values), **more)
    return logits[:, : table.outputs].clone(), labels


def loss_named(name, batch_dice, table, depth=3):
    """The loss by itself where it may stand alone, else beside cross-entropy."""
    text = name if SUMMARIES[name].stands_alone else f"ce + {name}"
    return build_loss(text, batch_dice, depth, table, (2.0, 1.0, 1.5))


def bodies(table, batch=2, size=(6, 7, 8)):
    """Labels of solid boxes, with borders and centre lines; unannotated voxels where the table has them."""
    labels = torch.zeros((batch, *size), dtype=torch.int64)
    labels[:, 1:5, 1:4, 1:7] = 1
    labels[:, 2:4, 1:4, 2:6] = 2
    labels[:, 1:5, 5:7, 3:8] = 3
    if table.ignore is not None:
        labels[:, 3, 2:6] = 4
    return labels


def right_logits(labels, table, size=8.0):
    if table.activation == "softmax":
        return size * F.one_hot(labels, 5)[..., :4].movedim(-1, 1)
    return torch.stack([size * (2 * any_of(labels, target.indices).float() - 1) for target in table.targets], 1)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize(
    ("table", "batch_dice"), list(zip(TABLES.values(), (False, True, True, False), strict=True)), ids=list(TABLES)
)
class TestEveryLoss:
    def test_falls_when_the_right_target_grows(self, name, batch_dice, table):
        labels = bodies(table)
        logits = torch.randn(2, table.outputs, *labels.shape[1:], generator=torch.Generator().manual_seed(0))
        loss, right = loss_named(name, batch_dice, table), right_logits(labels, table, 3.0)
        assert loss(logits + right, labels) < loss(logits, labels) < loss(logits - right, labels)

    def test_prefers_the_truth_to_a_structure_missed_or_misplaced(self, name, batch_dice, table):
        labels = bodies(table)
        missed = torch.where(labels == 3, 0, labels)
        loss = loss_named(name, batch_dice, table)
        perfect = loss(right_logits(labels, table), labels)
        assert perfect < loss(right_logits(missed, table), labels)
        assert perfect < loss(right_logits(labels.flip(3), table), labels)

    def test_has_the_gradient_of_finite_differences(self, name, batch_dice, table):
        logits, labels = batch_for(table, 2, size=(1, 3, 4), dtype=torch.float64)
        loss = loss_named(name, batch_dice, table)
        assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())

    def test_stays_finite_when_no_structure_is_there(self, name, batch_dice, table):
        logits, labels = batch_for(table)
        logits.requires_grad_()
        loss = loss_named(name, batch_dice, table)(logits, torch.zeros_like(labels))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()

    def test_of_a_batch_that_nobody_annotated_nothing_is_learned(self, name, batch_dice, table):
        logits, labels = batch_for(table)
        logits.requires_grad_()
        loss = loss_named(name, batch_dice, table)(logits, torch.full_like(labels, 4 if table.ignore else 0))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.any() == (table.ignore is None)

    def test_stays_finite_for_extreme_logits(self, name, batch_dice, table):
        logits, labels = batch_for(table)
        logits = (1e4 * logits).requires_grad_()
        loss_named(name, batch_dice, table)(logits, labels).backward()
        assert torch.isfinite(logits.grad).all()

    def test_is_computed_in_float32_under_autocast(self, name, batch_dice, table):
        logits, labels = batch_for(table)
        loss = loss_named(name, batch_dice, table)
        for kind in (torch.bfloat16, torch.float16):
            low = logits.to(kind)
            with torch.autocast("cpu", dtype=kind):
                value = loss(low, labels)
            assert value.dtype == torch.float32
            assert value == loss(low.float(), labels)

    def test_gives_the_same_bits_twice(self, name, batch_dice, table):
        labels = bodies(table)
        found = []
        for _ in range(2):
            logits = torch.randn(2, table.outputs, *labels.shape[1:], generator=torch.Generator().manual_seed(0))
            value = loss_named(name, batch_dice, table)(logits.requires_grad_(), labels)
            value.backward()
            found.append((value.detach(), logits.grad))
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])

    def test_reaches_all_outputs_of_deep_supervision(self, name, batch_dice, table):
        _, labels = batch_for(table, size=(4, 8, 8))
        sizes = ((4, 8, 8), (2, 4, 4), (1, 2, 2))
        outputs = [torch.randn(2, table.outputs, *size, requires_grad=True) for size in sizes]
        loss_named(name, batch_dice, table, 4)(outputs, labels).backward()
        assert outputs[0].grad.any() and outputs[1].grad.any()
        # The coarsest has no weight but stays in the graph: several processes wait for its gradient.
        assert outputs[2].grad is not None and not outputs[2].grad.any()

    def test_does_not_look_at_voxels_that_nobody_annotated(self, name, batch_dice, table):
        logits, labels = batch_for(table)
        loss = loss_named(name, batch_dice, table)
        unknown = labels == 4
        changed = torch.where(unknown[:, None], -7 * logits + 3, logits).requires_grad_()
        value = loss(changed, labels)
        value.backward()
        assert unknown.any() == (table.ignore is not None)
        assert value.item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)
        assert not changed.grad[unknown[:, None].expand_as(logits)].any()

    def test_of_labels_without_the_ignore_value_is_as_if_there_were_none(self, name, batch_dice, table):
        logits, labels = batch_for(table)
        labels = labels.clamp(max=3)
        plain = table.model_copy(update={"ignore": None})
        expected = loss_named(name, batch_dice, plain)(logits, labels).item()
        assert loss_named(name, batch_dice, table)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_every_loss_is_summed_up_where_the_planner_can_read_it():
    assert list(LOSSES) == list(SUMMARIES)
    assert all(summary.name == name and summary.summary for name, summary in SUMMARIES.items())


def test_another_number_of_outputs_than_the_loss_was_built_for_is_refused():
    logits, labels = batch_for(STRUCTURES)
    with pytest.raises(ValueError, match="2 outputs but the network gave 1"):
        build_loss("dice_ce", False, 3, STRUCTURES)([logits], labels)


def test_a_weighted_sum_is_the_sum_of_its_weighted_parts():
    logits, labels = batch_for(STRUCTURES)
    one, two = (build_loss(name, False, 3, STRUCTURES)(logits, labels) for name in ("dice_ce", "focal"))
    total = build_loss("[dice_ce, 0.25*focal]", False, 3, STRUCTURES)(logits, labels)
    assert total.item() == pytest.approx((one + 0.25 * two).item(), rel=1e-6)


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_class_weights_are_those_of_a_weighted_mean(table):
    logits, labels = batch_for(table)
    weights = ((0.5, 1.0, 2.0, 4.0),) if table.activation == "softmax" else ((0.5, 3.0), (1.0, 2.0))
    found = build_loss("ce", False, 3, table, class_weights=weights)(logits, labels).item()
    if table.activation == "softmax":
        expected = F.cross_entropy(logits, labels, torch.tensor(weights[0]), ignore_index=4).item()
    else:
        known = labels != (4 if table.ignore is not None else 99)
        losses, counted = 0.0, 0.0
        for score, target, (outside, inside) in zip(logits.unbind(1), table.targets, weights, strict=True):
            mask = any_of(labels, target.indices)
            weight = torch.where(mask, inside, outside) * known
            losses += (weight * F.binary_cross_entropy_with_logits(score, mask.float(), reduction="none")).sum().item()
            counted += weight.sum().item()
        expected = losses / counted
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_the_value_is_the_definition(batch_dice, table):
    logits, labels = batch_for(table)
    loss = build_loss("dice_ce", batch_dice, 3, table)
    assert loss(logits, labels).item() == pytest.approx(by_hand(logits, labels, batch_dice, table), rel=1e-5)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", list(TABLES))
def test_value_and_gradient_are_nnunets(batch_dice, name):
    expected = json.loads((Path(__file__).parents[1] / "golden/nnunet_losses.json").read_text())
    table = TABLES[name]
    values, truth = loss_batch(bool(table.regions), table.ignore is not None)
    logits = torch.from_numpy(values).requires_grad_()
    loss = build_loss("dice_ce", batch_dice, 3, table)(logits, torch.from_numpy(truth))
    loss.backward()
    found = loss.item(), float((logits.grad**2).sum())
    assert found == pytest.approx(expected[f"{name}, {batch_dice}"], rel=1e-6)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("name", ["structures, ignoring", "regions, ignoring"])
def test_of_a_batch_that_nobody_annotated_dice_is_perfect(name, batch_dice):
    table = TABLES[name]
    logits, labels = batch_for(table)
    logits.requires_grad_()
    loss = build_loss("dice_ce", batch_dice, 3, table)(logits, torch.full_like(labels, 4))
    loss.backward()
    assert loss.item() == -1
    assert not logits.grad.any()


def test_a_class_that_is_absent_counts_by_its_probabilities_alone():
    logits, labels = some_batch()
    labels[labels == 2] = 0
    assert build_loss("dice_ce", False, 3, STRUCTURES)(logits, labels).item() == pytest.approx(
        by_hand(logits, labels, False, STRUCTURES)
    )


def test_a_perfect_prediction_reaches_minus_one():
    _, labels = some_batch()
    logits = 100.0 * F.one_hot(labels, 4).movedim(-1, 1)
    assert build_loss("dice_ce", False, 3, STRUCTURES)(logits, labels).item() == pytest.approx(-1)


# monai 1.6 imports parts of numpy and torch that warn; nothing of it is used outside this test.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_value_is_monais(batch_dice):
    from monai.losses import DiceCELoss

    logits, labels = some_batch()
    monai = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=batch_dice,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    # MONAI's Dice loss is one minus Dice.
    expected = monai(logits, labels[:, None]).item() - 1
    assert build_loss("dice_ce", batch_dice, 3, STRUCTURES)(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_supervision_weights_halve_and_the_coarsest_is_zero():
    assert supervision_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    assert supervision_weights(1) == (1.0,)


def test_deep_supervision_is_the_weighted_sum_over_shrunken_labels():
    _, labels = some_batch(size=(4, 8, 8))
    outputs = [torch.randn(2, 4, *size) for size in ((4, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1))]
    single = build_loss("dice_ce", False, 3, STRUCTURES)
    expected = sum(
        weight * single(one, F.interpolate(labels[:, None].float(), one.shape[2:], mode="nearest-exact")[:, 0].long())
        for one, weight in zip(outputs, (4 / 7, 2 / 7, 1 / 7, 0), strict=True)
    )
    assert build_loss("dice_ce", False, 5, STRUCTURES)(outputs, labels).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


@pytest.mark.parametrize("size", [(2, 3, 5), (1, 1, 1), (5, 7, 3), (6, 9, 11)])
def test_labels_shrink_as_torchs_nearest_exact(size):
    labels = torch.arange(2 * 6 * 9 * 11).reshape(2, 6, 9, 11)
    expected = F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()
    assert torch.equal(shrink_labels(labels, size), expected)


def test_the_dice_of_patches_is_that_of_the_targets_that_are_there():
    labels = torch.tensor([0, 0, 1, 2, 3, 4]).reshape(1, 1, 1, 6)
    classes = torch.tensor([1, 0, 1, 1, 3, 3]).reshape(1, 1, 1, 6)
    logits = F.one_hot(classes, 4).movedim(-1, 1).float()
    sparse = TABLES["structures, ignoring"]
    assert patch_dice(logits, labels, sparse) == pytest.approx((2 / 4 + 0 + 1) / 3)
    assert patch_dice(logits, torch.full_like(labels, 4), sparse) is None
    assert patch_dice(logits, labels.clamp(max=1), STRUCTURES) == pytest.approx(2 * 2 / (4 + 3))
    found = torch.tensor([[1, -1, 1, 1, 1, 1], [-1, -1, -1, 1, 1, 1]]).reshape(1, 2, 1, 1, 6)
    assert patch_dice(found, labels, TABLES["regions, ignoring"]) == pytest.approx((2 * 3 / (3 + 4) + 1) / 2)


def test_an_unknown_loss_is_refused_with_the_known_names():
    with pytest.raises(PlanError, match=r"no loss 'entropy'.*dice_ce"):
        build_loss("entropy", False, 3, STRUCTURES)


_ONE_OF_TWO_PROCESSES = """
import sys, torch
from medseg.cases.labels import LabelTable
from medseg.training.losses import build_loss
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
batch = torch.load(f"{folder}/batch.pt")
half = slice(2 * rank, 2 * rank + 2)
logits = batch["logits"][half].requires_grad_()
table = LabelTable.from_text(batch["table"], "table")
loss = build_loss("dice_ce", True, 3, table)(logits, batch["labels"][half])
loss.backward()
torch.save({"gradient": logits.grad, "loss": loss.detach()}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["structures", "regions"])
def test_two_processes_find_the_batch_dice_gradient_of_the_whole_batch(tmp_path, name):
    logits, labels = batch_for(TABLES[name], 4, dtype=torch.float64)
    table = dump_yaml(TABLES[name].content())
    torch.save({"logits": logits, "labels": labels, "table": table}, tmp_path / "batch.pt")
    ranks = [
        subprocess.Popen([sys.executable, "-c", _ONE_OF_TWO_PROCESSES, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    assert [process.wait(60) for process in ranks] == [0, 0]
    logits.requires_grad_()
    loss = build_loss("dice_ce", True, 3, TABLES[name])(logits, labels)
    loss.backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    # Data parallel training averages the gradients, and so is the loss shown.
    gradient = torch.cat([one["gradient"] for one in found]) / 2
    assert torch.allclose(gradient, logits.grad, atol=1e-12)
    assert sum(one["loss"] for one in found).item() / 2 == pytest.approx(loss.item())
