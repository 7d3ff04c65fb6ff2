"""The loss against brute force, finite differences, MONAI, and itself over two processes."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medseg.errors import PlanError
from medseg.training.losses import LOSSES, DiceCrossEntropy, build_loss, shrink_labels, supervision_weights


def some_batch(batch=2, classes=4, size=(3, 4, 5), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=dtype)
    return logits, torch.randint(0, classes, (batch, *size), generator=generator)


def by_hand(logits, labels, batch_dice):
    """The definition, voxel by voxel in Python."""
    batch, classes = logits.shape[:2]
    p = np.exp(logits.numpy().astype(np.float64))
    p /= p.sum(1, keepdims=True)
    flat, truth = p.reshape(batch, classes, -1), labels.numpy().reshape(batch, -1)
    cross = [-math.log(flat[b, truth[b, v], v]) for b in range(batch) for v in range(truth.shape[1])]
    groups = [list(range(batch))] if batch_dice else [[b] for b in range(batch)]
    scores = []
    for group in groups:
        for k in range(1, classes):
            both = sum(flat[b, k, v] for b in group for v in range(truth.shape[1]) if truth[b, v] == k)
            total = sum(flat[b, k].sum() + (truth[b] == k).sum() for b in group)
            scores.append((2 * both + 1e-5) / (total + 1e-5))
    return sum(cross) / len(cross) - sum(scores) / len(scores)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("batch_dice", [False, True])
class TestEveryLoss:
    def test_falls_when_the_right_class_grows(self, name, batch_dice):
        logits, labels = some_batch()
        loss = build_loss(name, batch_dice, 3)
        better = logits + F.one_hot(labels, 4).movedim(-1, 1)
        assert loss(better, labels) < loss(logits, labels)

    def test_has_the_gradient_of_finite_differences(self, name, batch_dice):
        logits, labels = some_batch(2, 3, (1, 2, 3), torch.float64)
        loss = build_loss(name, batch_dice, 3)
        assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())

    def test_stays_finite_when_no_structure_is_there(self, name, batch_dice):
        logits, labels = some_batch()
        logits.requires_grad_()
        loss = build_loss(name, batch_dice, 3)(logits, torch.zeros_like(labels))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()

    def test_stays_finite_for_extreme_logits(self, name, batch_dice):
        logits, labels = some_batch()
        logits = (1e4 * logits).requires_grad_()
        build_loss(name, batch_dice, 3)(logits, labels).backward()
        assert torch.isfinite(logits.grad).all()

    def test_is_computed_in_float32_under_autocast(self, name, batch_dice):
        logits, labels = some_batch()
        low = logits.bfloat16()
        loss = build_loss(name, batch_dice, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(low, labels)
        assert value.dtype == torch.float32
        assert value == loss(low.float(), labels)

    def test_reaches_all_outputs_of_deep_supervision(self, name, batch_dice):
        _, labels = some_batch(size=(4, 8, 8))
        outputs = [torch.randn(2, 4, *size, requires_grad=True) for size in ((4, 8, 8), (2, 4, 4), (1, 2, 2))]
        build_loss(name, batch_dice, 4)(outputs, labels).backward()
        assert outputs[0].grad.any() and outputs[1].grad.any()
        # The coarsest has no weight but stays in the graph: several processes wait for its gradient.
        assert outputs[2].grad is not None and not outputs[2].grad.any()

    def test_refuses_another_number_of_outputs_than_it_was_built_for(self, name, batch_dice):
        logits, labels = some_batch()
        with pytest.raises(ValueError, match="2 outputs but the network gave 1"):
            build_loss(name, batch_dice, 3)([logits], labels)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_value_is_the_definition(batch_dice):
    logits, labels = some_batch()
    assert DiceCrossEntropy(batch_dice)(logits, labels).item() == pytest.approx(by_hand(logits, labels, batch_dice))


def test_a_class_that_is_absent_counts_by_its_probabilities_alone():
    logits, labels = some_batch()
    labels[labels == 2] = 0
    assert DiceCrossEntropy(False)(logits, labels).item() == pytest.approx(by_hand(logits, labels, False))


def test_a_perfect_prediction_reaches_minus_one():
    _, labels = some_batch()
    logits = 100.0 * F.one_hot(labels, 4).movedim(-1, 1)
    assert DiceCrossEntropy(False)(logits, labels).item() == pytest.approx(-1)


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
    assert DiceCrossEntropy(batch_dice)(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_supervision_weights_halve_and_the_coarsest_is_zero():
    assert supervision_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    assert supervision_weights(1) == (1.0,)


def test_deep_supervision_is_the_weighted_sum_over_shrunken_labels():
    _, labels = some_batch(size=(4, 8, 8))
    outputs = [torch.randn(2, 4, *size) for size in ((4, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1))]
    single = DiceCrossEntropy(False)
    expected = sum(
        weight * single(one, F.interpolate(labels[:, None].float(), one.shape[2:], mode="nearest-exact")[:, 0].long())
        for one, weight in zip(outputs, (4 / 7, 2 / 7, 1 / 7, 0), strict=True)
    )
    assert build_loss("dice_ce", False, 5)(outputs, labels).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("size", [(2, 3, 5), (1, 1, 1), (5, 7, 3), (6, 9, 11)])
def test_labels_shrink_as_torchs_nearest_exact(size):
    labels = torch.arange(2 * 6 * 9 * 11).reshape(2, 6, 9, 11)
    expected = F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()
    assert torch.equal(shrink_labels(labels, size), expected)


def test_an_unknown_loss_is_refused_with_the_known_names():
    with pytest.raises(PlanError, match=r"no loss 'focal'.*dice_ce"):
        build_loss("focal", False, 3)


_ONE_OF_TWO_PROCESSES = """
import sys, torch
from medseg.training.losses import build_loss
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
batch = torch.load(f"{folder}/batch.pt")
half = slice(2 * rank, 2 * rank + 2)
logits = batch["logits"][half].requires_grad_()
loss = build_loss("dice_ce", True, 3)(logits, batch["labels"][half])
loss.backward()
torch.save({"gradient": logits.grad, "loss": loss.detach()}, f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_find_the_batch_dice_gradient_of_the_whole_batch(tmp_path):
    logits, labels = some_batch(4, dtype=torch.float64)
    torch.save({"logits": logits, "labels": labels}, tmp_path / "batch.pt")
    ranks = [
        subprocess.Popen([sys.executable, "-c", _ONE_OF_TWO_PROCESSES, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    assert [process.wait(60) for process in ranks] == [0, 0]
    logits.requires_grad_()
    loss = build_loss("dice_ce", True, 3)(logits, labels)
    loss.backward()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    # Data parallel training averages the gradients, and so is the loss shown.
    gradient = torch.cat([one["gradient"] for one in found]) / 2
    assert torch.allclose(gradient, logits.grad, atol=1e-12)
    assert sum(one["loss"] for one in found).item() / 2 == pytest.approx(loss.item())
