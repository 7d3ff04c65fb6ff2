"""The value of every loss against its definition, worked out voxel by voxel in numpy, and against MONAI's."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medseg.training.losses import LOSSES, build_loss

from tiny import nested_regions, table_of

TABLES = {
    "structures": table_of(3),
    "structures, ignoring": table_of(3, ignore=9),
    "regions": table_of(3, regions=nested_regions(3)[:2]),
    "regions, ignoring": table_of(3, ignore=9, regions=nested_regions(3)[:2]),
}
SPACING = (3.0, 1.0, 2.0)
SIZE = (3, 4, 5)


def a_batch(table, seed=0):
    """Logits and labels in which structure 2 is absent from the first patch."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5 if table.ignore is not None else 4, (2, *SIZE))
    labels[0][labels[0] == 2] = 0
    return 1.5 * random.normal(size=(2, table.outputs, *SIZE)), labels


class ByHand:
    """Probabilities and truths as plain numpy; written without a look at the package."""

    def __init__(self, logits, labels, table):
        self.table, self.labels = table, labels
        self.classes = table.activation == "softmax"
        self.known, self.logits = labels != 4, logits
        if self.classes:
            self.p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            self.truth = np.stack([labels == k for k in range(4)], 1)
        else:
            self.p = 1 / (1 + np.exp(-logits))
            self.truth = np.stack([np.isin(labels, target.indices) for target in table.targets], 1)

    def questions(self):
        """(probabilities of all answers, which is true) of every question about every annotated voxel."""
        for place in zip(*np.nonzero(self.known), strict=True):
            b, *v = place
            p, truth = self.p[(b, slice(None), *v)], self.truth[(b, slice(None), *v)]
            if self.classes:
                yield p, int(truth.argmax())
            else:
                for one, inside in zip(p, truth, strict=True):
                    yield np.array([1 - one, one]), int(inside)

    def evidential(self):
        """Expected squared error under a Dirichlet (of regions: Beta) distribution, and for classes its divergence from
        the flat one once the truth is taken out."""
        found = []
        for place in zip(*np.nonzero(self.known), strict=True):
            b, *v = place
            z, truth = self.logits[(b, slice(None), *v)], self.truth[(b, slice(None), *v)]
            questions = [(z, truth)]
            if not self.classes:
                pairs = zip(z, truth, strict=True)
                questions = [(np.array([-one / 2, one / 2]), np.array([not there, there])) for one, there in pairs]
            for logs, true in questions:
                alpha = np.exp(np.clip(logs, -3, 10))
                p, total = alpha / alpha.sum(), alpha.sum()
                value = float(((true - p) ** 2 + p * (1 - p) / (total + 1)).sum())
                if self.classes:
                    rest = np.where(true, 1.0, alpha)
                    flat = stats.dirichlet(np.ones(len(rest)))
                    # KL(P || Q) = cross entropy - entropy; the density of Q is the same everywhere.
                    value += 0.1 * float(
                        -flat.logpdf(np.full(len(rest), 1 / len(rest))) - stats.dirichlet(rest).entropy()
                    )
                found.append(value)
        return float(np.mean(found))

    def mean(self, function):
        return float(np.mean([function(p, true) for p, true in self.questions()]))

    def targets(self, background=False):
        """(p, truth) of every target, both (B, Z, Y, X), 0 where nobody annotated."""
        first = 1 if self.classes and not background else 0
        for k in range(first, self.p.shape[1]):
            yield self.p[:, k] * self.known, self.truth[:, k] & self.known

    def patches(self, batch, background=False):
        """The same, one patch (or the whole batch) at a time: lists by group of lists by target."""
        groups = [slice(0, 2)] if batch else [slice(0, 1), slice(1, 2)]
        return [[(p[g], t[g]) for p, t in self.targets(background)] for g in groups]


def overlap_sums(p, t):
    return (p * t).sum(), p.sum(), t.sum()


def dice(x, batch):
    pairs = [overlap_sums(*one) for group in x.patches(batch) for one in group]
    return -np.mean([(2 * i + 1e-5) / (a + g + 1e-5) for i, a, g in pairs])


def generalised_dice(x, batch):
    values = []
    for group in x.patches(batch, background=True):
        sums = [overlap_sums(*one) for one in group]
        weights = [1 / g**2 if g else None for _, _, g in sums]
        largest = max((w for w in weights if w), default=1.0)
        weights = [(w or largest) / largest for w in weights]
        up = 2 * sum(w * i for w, (i, _, _) in zip(weights, sums, strict=True)) + 1e-5
        down = sum(w * (a + g) for w, (_, a, g) in zip(weights, sums, strict=True)) + 1e-5
        values.append(1 - up / down)
    return np.mean(values)


def tversky_losses(x, batch):
    for group in x.patches(batch):
        for p, t in group:
            both, false, missed = (p * t).sum(), (p * ~t).sum(), ((1 - p) * t).sum()
            yield 1 - (both + 1e-5) / (both + 0.3 * false + 0.7 * missed + 1e-5)


def lovasz(x, batch):
    """The integral over all thresholds of the IoU lost by the voxels whose error is above it."""
    values = []
    for group in [slice(0, 2)] if batch else [slice(0, 1), slice(1, 2)]:
        for k in range(x.p.shape[1]):
            known = x.known[group].ravel()
            p, t = x.p[group, k].ravel()[known], x.truth[group, k].ravel()[known]
            if x.classes and not t.any():
                continue
            errors = np.abs(t - p)
            steps = np.concatenate([[0], np.sort(errors)])
            total = 0.0
            for low, high in itertools.pairwise(steps):
                wrong = errors >= high
                total += (high - low) * wrong.sum() / (t | wrong).sum()
            values.append(total)
    return np.mean(values)


def distances(mask):
    """From every voxel to the nearest of the other kind, in units of the finest edge, by looking at all of them."""
    found = np.zeros(mask.shape)
    for place in np.ndindex(mask.shape):
        others = np.argwhere(mask != mask[place])
        if len(others):
            found[place] = np.sqrt((((others - place) * SPACING) ** 2).sum(1)).min()
    return found


def boundary(x, batch):
    total = 0.0
    for p, t in x.targets():
        for one, mask in zip(p, t, strict=True):
            d = distances(mask)
            total += (one * np.where(mask, -(d - 1), d)).sum()
    return total / (x.known.sum() * len(list(x.targets())))


def hausdorff(x, batch):
    total = 0.0
    for p, t in x.targets():
        for one, mask in zip(p, t, strict=True):
            total += ((one - mask) ** 2 * (distances(mask) ** 2 + distances(one > 0.5) ** 2)).sum()
    return total / (x.known.sum() * len(list(x.targets())))


CROSS = ndimage.generate_binary_structure(3, 1)


def skeleton(volume):
    def opened(v):
        return ndimage.grey_dilation(ndimage.grey_erosion(v, footprint=CROSS), size=3)

    found = np.maximum(volume - opened(volume), 0)
    for _ in range(5):
        volume = ndimage.grey_erosion(volume, footprint=CROSS)
        lost = np.maximum(volume - opened(volume), 0)
        found = found + np.maximum(lost - found * lost, 0)
    return found


def cldice(x, batch):
    values = []
    for p, t in x.targets():
        for one, mask in zip(p, t.astype(float), strict=True):
            line, true_line = skeleton(one), skeleton(mask)
            precision = ((line * mask).sum() + 1) / (line.sum() + 1)
            recall = ((true_line * one).sum() + 1) / (true_line.sum() + 1)
            values.append(1 - 2 / (1 / precision + 1 / recall))
    return np.mean(values)


def skeleton_recall(x, batch):
    from skimage.morphology import skeletonize

    values = []
    for p, t in x.targets():
        for one, mask in zip(p, t, strict=True):
            if mask.any():
                tube = (
                    ndimage.binary_dilation(skeletonize(np.pad(mask, 3)), CROSS, iterations=2)[3:-3, 3:-3, 3:-3] & mask
                )
                values.append(((one * tube).sum() + 1e-5) / (tube.sum() + 1e-5))
    return 1 - np.mean(values)


def soft_ce(x, batch):
    total, count = 0.0, 0
    for b, *v in zip(*np.nonzero(x.known), strict=True):
        p, truth = x.p[(b, slice(None), *v)], x.truth[(b, slice(None), *v)].astype(float)
        around, weights = np.zeros_like(truth), 0.0
        for step in itertools.product((-1, 0, 1), repeat=3):
            place = tuple(np.add(v, step))
            inside = all(0 <= n < size for n, size in zip(place, SIZE, strict=True))
            if any(step) and inside and x.known[(b, *place)]:
                weight = math.exp(-np.dot(step, step) / 2)
                around += weight * x.truth[(b, slice(None), *place)]
                weights += weight
        soft = (truth + around / weights) / 2 if weights else truth
        if x.classes:
            total, count = total - (soft * np.log(p)).sum(), count + 1
        else:
            total, count = total - (soft * np.log(p) + (1 - soft) * np.log(1 - p)).sum(), count + len(p)
    return total / count


def topk(x, batch):
    every = sorted((-math.log(p[true]) for p, true in x.questions()), reverse=True)
    return np.mean(every[: round(len(every) / 10)])


def ce(x, batch):
    return x.mean(lambda p, true: -math.log(p[true]))


BY_HAND = {
    "dice_ce": lambda x, batch: ce(x, batch) + dice(x, batch),
    "dice": dice,
    "ce": ce,
    "generalised_dice": generalised_dice,
    "tversky": lambda x, batch: np.mean(list(tversky_losses(x, batch))),
    "focal_tversky": lambda x, batch: np.mean([loss**0.75 for loss in tversky_losses(x, batch)]),
    "lovasz": lovasz,
    "focal": lambda x, batch: x.mean(lambda p, true: -((1 - p[true]) ** 2) * math.log(p[true])),
    "topk_ce": topk,
    "boundary": boundary,
    "hausdorff": hausdorff,
    "cldice": cldice,
    "skeleton_recall": skeleton_recall,
    "smoothed_ce": lambda x, batch: x.mean(
        lambda p, true: -sum((0.9 * (k == true) + 0.1 / len(p)) * math.log(q) for k, q in enumerate(p))
    ),
    "soft_ce": soft_ce,
    "generalised_ce": lambda x, batch: x.mean(lambda p, true: (1 - p[true] ** 0.7) / 0.7),
    "symmetric_ce": lambda x, batch: x.mean(
        lambda p, true: -0.1 * math.log(p[true]) - sum(q * (0 if k == true else -4) for k, q in enumerate(p))
    ),
    "bootstrap": lambda x, batch: x.mean(lambda p, true: -0.8 * math.log(p[true]) - 0.2 * math.log(p.max())),
    "evidential": lambda x, batch: x.evidential(),
    "learned": ce,  # of a single answer; of several in tests/networks/test_learned_noise.py
    "soft_bootstrap": lambda x, batch: x.mean(
        lambda p, true: -0.95 * math.log(p[true]) - 0.05 * sum(q * math.log(q) for q in p)
    ),
}


def found(name, logits, labels, table, batch=False, spacing=SPACING):
    """The loss by itself: where it may not stand alone, cross-entropy is subtracted again."""
    values, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    alone = LOSSES_ALONE.get(name, name)
    loss = build_loss(alone, batch, 3, table, spacing)(values, truth).item()
    return loss if alone == name else loss - build_loss("ce", batch, 3, table, spacing)(values, truth).item()


LOSSES_ALONE = {name: f"ce + {name}" for name in ("boundary", "cldice", "skeleton_recall")}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
@pytest.mark.parametrize("name", list(LOSSES))
def test_the_value_is_the_definition(name, table):
    logits, labels = a_batch(table)
    by_hand = ByHand(logits, labels, table)
    for batch in (False, True):
        assert found(name, logits, labels, table, batch) == pytest.approx(BY_HAND[name](by_hand, batch), rel=1e-9)


def test_the_skeleton_of_a_slice_is_that_of_the_slice():
    labels = np.zeros((1, 1, 9, 20), np.int64)
    labels[0, 0, 2:7, 2:18] = 1
    logits = np.full((1, 2, 1, 9, 20), -4.0)
    logits[0, 1, 0, 4, 4:16] = 4.0  # only the centre line is found
    logits[0, 0] = -logits[0, 1]
    recall = found("skeleton_recall", logits, labels, table_of(1))
    assert 0.5 < recall < 0.9  # the line is found, the tube around it is not
    logits[0, 1, 0, 2:7, 2:18], logits[0, 0, 0, 2:7, 2:18] = 4.0, -4.0
    assert found("skeleton_recall", logits, labels, table_of(1)) < 1e-3


# monai 1.6 imports parts of numpy and torch that warn; nothing of it is used outside this test.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_values_of_one_structure_are_monais():
    from monai import losses

    table = table_of(1)
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(1, 2, 6, 7, 8)), np.zeros((1, 6, 7, 8), np.int64)
    labels[0, 1:5, 2:6, 2:7] = 1
    asked = {"include_background": False, "softmax": True, "to_onehot_y": True}
    exact = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    monais = {
        "generalised_dice": losses.GeneralizedDiceLoss(
            **asked | {"include_background": True}, smooth_nr=0, smooth_dr=0
        ),
        "tversky": losses.TverskyLoss(**asked, **exact, alpha=0.3, beta=0.7),
        "focal": losses.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0, include_background=True),
        "boundary": losses.BoundaryLoss(**asked),
        "hausdorff": losses.HausdorffDTLoss(**asked),
        "cldice": losses.SoftclDiceLoss(**asked, iter_=5),
    }
    ours = {name: found(name, logits, labels, table, spacing=(1.0, 1.0, 1.0)) for name in monais}
    theirs = {
        name: loss(torch.from_numpy(logits), torch.from_numpy(labels)[:, None]).item() for name, loss in monais.items()
    }
    theirs["focal"] *= 2  # monai's mean runs over classes as well, of which all but one add nothing
    assert ours == pytest.approx(theirs, rel=1e-4)
