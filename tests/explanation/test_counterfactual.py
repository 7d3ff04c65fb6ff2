"""Changes of an image that take a structure away or put one there, on a network that sees brightness alone."""

import pytest
import torch
from torch import nn

from medseg.explanation.counterfactual import counterfactual, is_already
from medseg.explanation.target import Target

SIZE = 14


class Bright(nn.Module):
    """Structure 1 is what is brighter than 1, by the mean of a small box."""

    def __init__(self, always=False):
        super().__init__()
        self.always = always

    def forward(self, x):
        around = nn.functional.avg_pool3d(x[:, :1], 3, stride=1, padding=1, count_include_pad=False)
        score = around * 4 - 4 if not self.always else around * 0 + 3
        return torch.cat([torch.zeros_like(score), score, torch.full_like(score, -9.0)], dim=1)


def asked(always=False, bright=True, channels=1):
    generator = torch.Generator().manual_seed(0)
    patch = 0.1 * torch.randn(1, channels, SIZE, SIZE, SIZE, generator=generator)
    region = torch.zeros((SIZE,) * 3, dtype=torch.bool)
    region[5:9, 5:9, 5:9] = True
    patch[:, :1, 3:11, 3:11, 3:11] += 0.8  # a fainter shell, that is no structure
    if bright:
        patch[:, :1, 4:10, 4:10, 4:10] += 1.5
    return Target(Bright(always).eval(), patch, 1, region)


def test_the_smallest_change_takes_the_structure_away_and_leaves_the_rest_alone():
    target = asked()
    found = counterfactual(target, "remove", 1, True)
    assert found.was_found
    assert found.before == 1
    assert found.after <= 0.1
    assert torch.equal(found.patch[0, 0][~found.place], target.patch[0, 0][~found.place])
    area = float(found.opacity[found.place].mean())
    assert area < 0.9  # less than all of it was enough
    again = counterfactual(target, "remove", 1, True)
    assert torch.equal(found.patch, again.patch)
    after = target.network(found.patch)[0].argmax(0) == 1
    assert float(after[target.region].float().mean()) == pytest.approx(found.after)


def test_what_is_put_there_is_one_brightness_that_the_network_takes_for_the_structure():
    found = counterfactual(asked(bright=False), "add", 1, True)
    assert found.was_found
    assert found.before == 0
    assert found.after >= 0.9
    assert (found.patch - asked(bright=False).patch)[0, 0][found.place].mean() > 0


def test_a_network_that_always_says_so_has_no_counterfactual():
    target = asked(always=True)
    found = counterfactual(target, "remove", 1, True)
    assert not found.was_found
    assert found.everything == 1
    assert torch.equal(found.patch, target.patch)


def test_the_labels_of_a_cascade_are_left_as_they_are():
    target = asked(channels=2)
    found = counterfactual(target, "remove", 1, True)
    assert found.was_found
    assert torch.equal(found.patch[:, 1], target.patch[:, 1])


def test_nothing_to_remove_and_nothing_to_add_is_told():
    assert is_already(0.05, "remove")
    assert not is_already(0.5, "remove")
    assert is_already(0.95, "add")
