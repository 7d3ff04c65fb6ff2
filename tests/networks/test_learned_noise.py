"""The head that says what may be otherwise: its arithmetic, and that it learns where labels are ambiguous."""

import itertools

import numpy as np
import pytest
import torch

from medseg.networks.build import build_network
from medseg.networks.learned_noise import WithFactors, alternatives, expected_logits, noises_of
from medseg.planning.memory import parameter_count
from medseg.planning.plan import FACTORS
from medseg.training.answers import Answers, LossSetting
from medseg.training.losses import LOSSES, build_loss
from medseg.uncertainty.members import with_alternatives

from tiny import table_of, tiny_plan

CLASSES = 3


def heads(seed=0, size=(2, 3, 4)):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.normal(size=(2, CLASSES * (1 + FACTORS), *size)))


def corners(values):
    """Every alternative's probabilities, in numpy and voxel by voxel: (8, B, K, ...)."""
    mean, *factors = np.split(values.numpy(), 1 + FACTORS, axis=1)
    signs = itertools.product((1, -1), repeat=FACTORS)
    each = [mean + sum(s * f for s, f in zip(one, factors, strict=True)) for one in signs]
    return np.stack([np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in each])


def test_the_corners_have_the_mean_and_the_covariance_of_the_factors():
    values = heads()
    each = torch.stack(list(alternatives(values)))
    mean, *factors = values.chunk(1 + FACTORS, 1)
    torch.testing.assert_close(each.mean(0), mean)
    a, b = (each - mean)[:, 0, 0, 0, 0, 0], (each - mean)[:, 0, 2, 1, 2, 3]  # another class, elsewhere
    wanted = sum(f[0, 0, 0, 0, 0] * f[0, 2, 1, 2, 3] for f in factors)
    torch.testing.assert_close((a * b).mean(), wanted)


def test_what_is_predicted_is_the_mean_over_all_that_may_be():
    values = heads()
    np.testing.assert_allclose(expected_logits(values).softmax(1), corners(values).mean(0), rtol=1e-9)


def test_the_loss_is_the_probability_of_the_labels_of_a_patch_as_a_whole():
    values, table = heads(), table_of(CLASSES - 1, ignore=9)
    labels = np.random.default_rng(1).integers(0, CLASSES + 1, (2, 2, 3, 4))  # the last is not annotated
    p = corners(values)
    total = 0.0
    for patch in range(2):
        known = labels[patch] < CLASSES
        right = np.take_along_axis(p[:, patch], np.minimum(labels[patch], CLASSES - 1)[None, None], 2 - 1)[:, 0]
        total -= np.log(np.mean([np.prod(one[known]) for one in right]))
    wanted = total / (labels < CLASSES).sum()
    found = LOSSES["learned"](Answers(values, torch.from_numpy(labels), LossSetting(table, False)))
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_maps_are_those_of_all_alternatives_and_doubt_of_labels_is_no_disagreement():
    values = heads()
    found, p = with_alternatives(values).double(), corners(values)
    mean = p.mean(0)
    np.testing.assert_allclose(found[:, :CLASSES], mean, atol=1e-6)
    np.testing.assert_allclose(found[:, CLASSES], -(mean * np.log(mean)).sum(1), atol=1e-6)
    np.testing.assert_allclose(found[:, CLASSES + 1], (p**2).sum(2).mean(0), atol=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_with_this_head_gives_logits_unless_it_is_asked_for_all(dimensions):
    size = (16 if dimensions == 3 else 1, 16, 16)
    plan = tiny_plan(dimensions).configurations["3d_fullres" if dimensions == 3 else "2d"].network
    plan = plan.model_copy(update={"head": "learned"})
    torch.manual_seed(0)
    network = build_network(plan, dimensions, 1, CLASSES).eval()
    assert sum(p.numel() for p in network.parameters()) == parameter_count(plan, 1, CLASSES)
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        usual, whole = network(x), WithFactors(network)(x)
    assert usual.shape == (1, CLASSES, *size)
    assert whole.shape == (1, CLASSES * (1 + FACTORS), *size)
    torch.testing.assert_close(usual, expected_logits(whole))
    assert not noises_of(network)[0].is_asked
    assert all(one.shape[1] == CLASSES * (1 + FACTORS) for one in network.train()(x))


def ambiguous(random, count):
    """Squares that readers always mark, and others, as bright, that half of them mark whole and half not at all."""
    images = 0.3 * torch.randn(count, 1, 1, 16, 16, generator=random)
    labels = torch.zeros(count, 1, 16, 16, dtype=torch.int64)
    images[..., 2:7, 2:7] += 2
    labels[..., 2:7, 2:7] = 1
    images[..., 9:14, 9:14] -= 2
    labels[..., 9:14, 9:14] = torch.randint(0, 2, (count, 1, 1, 1), generator=random)
    return images, labels


def test_the_learned_variance_is_high_where_labels_are_ambiguous_and_moves_a_region_as_a_whole():
    table, random = table_of(1), torch.Generator().manual_seed(0)
    plan = tiny_plan(2).configurations["2d"].network.model_copy(update={"head": "learned", "deep_supervision": False})
    torch.manual_seed(0)
    network = build_network(plan, 2, 1, 2)
    loss = build_loss("ce + learned", False, len(plan.features), table)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(120):
        images, labels = ambiguous(random, 8)
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()
    images, _ = ambiguous(random, 16)
    with torch.no_grad():
        whole = WithFactors(network.eval())(images)
        found = with_alternatives(whole)
        each = torch.stack(list(alternatives(whole))).softmax(2)[:, :, 1, 0]
    variance = found[:, 3] - (found[:, :2] ** 2).sum(1)
    certain, doubtful = variance[..., 3:6, 3:6].mean(), variance[..., 10:13, 10:13].mean()
    assert doubtful > 0.2  # of at most a half
    assert certain < 0.05
    assert found[:, 1, 0, 10:13, 10:13].mean() == pytest.approx(0.5, abs=0.15)
    there = each[:, :, 10:13, 10:13].flatten(2)
    assert there.std(dim=2).mean() < 0.3 * there.std(dim=0).mean()  # voxels of the region go together
