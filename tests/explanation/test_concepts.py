"""Concepts that a network's answer depends on, and examples that are no concept at all."""

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import SettingsError
from medseg.explanation.concepts import Example, direction, judge_concept, slopes_of, told_apart, vectors_of
from medseg.explanation.target import Target

SIZE = 12


class BrightOrStriped(nn.Module):
    """Channels of a layer see brightness, stripes and edges; the structure's score rises with brightness alone."""

    def __init__(self, dimensions=3):
        super().__init__()
        self.flat = dimensions == 2
        convolution = nn.Conv2d if self.flat else nn.Conv3d
        self.layer = convolution(1, 4, 3, padding=1)
        self.head = convolution(4, 2, 1)
        with torch.no_grad():
            self.layer.weight.mul_(0.02)
            middle = (1, 1) if self.flat else (1, 1, 1)
            before = (*middle[:-1], 0)
            self.layer.weight[(0, 0, *middle)] = 1.0
            self.layer.weight[(1, 0, *middle)], self.layer.weight[(1, 0, *before)] = 1.0, -1.0
            self.head.weight.zero_()
            self.head.weight[1, 0] = 1.0

    def forward(self, x):
        found = self.head(self.layer(x.squeeze(2) if self.flat else x).relu())
        return found.unsqueeze(2) if self.flat else found


def patch_of(kind, seed, dimensions=3):
    size = (1 if dimensions == 2 else SIZE, SIZE, SIZE)
    found = 0.3 * torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed))
    if kind == "bright":
        found += 1.5
    if kind == "striped":
        found[..., ::2] += 1.5
        found[..., 1::2] -= 1.5
    return found


def examples(kind, count, first=0, dimensions=3):
    region = torch.zeros(1 if dimensions == 2 else SIZE, SIZE, SIZE, dtype=torch.bool)
    region[..., 2:10, 2:10] = True
    return [Example(patch_of(kind, first + seed, dimensions), region) for seed in range(count)]


def judged(kind, dimensions=3, seed=0):
    torch.manual_seed(seed)
    network = BrightOrStriped(dimensions).eval().requires_grad_(False)
    patch = patch_of("bright", 999, dimensions)
    region = torch.zeros(patch.shape[2:], dtype=torch.bool)
    region[..., 4:8, 4:8] = True
    slopes = slopes_of(Target(network, patch, 1, region), "layer")
    shown, random = examples(kind, 10, 100 * seed, dimensions), examples("plain", 40, 5000 + 100 * seed, dimensions)
    concept, others = (vectors_of(network, "layer", one) for one in (shown, random))
    return judge_concept(slopes, concept, others, runs=20, seed=seed)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_concept_that_the_score_depends_on_is_significant(dimensions):
    found = judged("bright", dimensions)
    assert found.is_significant
    assert found.score > 0.95
    assert 0.2 < found.random_score < 0.8
    assert found.told_apart == 1
    assert found.verdict.startswith("Significant")


def test_random_examples_are_hardly_ever_taken_for_a_concept():
    found = [judged("plain", seed=seed) for seed in range(20)]
    assert sum(one.is_significant for one in found) <= 2
    refused = next(one for one in found if not one.is_significant)
    assert "Not significant" in refused.verdict


def test_channels_that_go_with_a_concept_do_not_turn_its_vector_away():
    random = np.random.default_rng(0)
    common = random.normal(size=(30, 1))
    second = common + np.array([1.0, 100.0]) * random.normal(size=(30, 2)) * [0.1, 1.0]
    first = second + 2.0
    np.testing.assert_allclose(direction(first, second), [2.0, 2.0])
    right, shown = told_apart(first, second)
    assert shown == 60
    assert right > 50  # by the first channel, whatever the scale of the other


def test_too_few_examples_are_refused():
    vectors = np.zeros((5, 3))
    with pytest.raises(SettingsError, match="at least 6"):
        judge_concept(vectors, vectors, np.zeros((40, 3)), runs=5)
