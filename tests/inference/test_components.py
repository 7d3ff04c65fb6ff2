import numpy as np
import pytest
from scipy import ndimage

from medseg.cases.labels import Label, LabelTable
from medseg.cases.regions import Region
from medseg.inference.components import FOREGROUND, ComponentRule, apply_rule, apply_rules
from medseg.inference.selection import learn_rules

TABLE = LabelTable(labels=(Label(name="background", value=0), Label(name="one", value=1), Label(name="two", value=2)))
NESTED = LabelTable(
    labels=(Label(name="background", value=0), Label(name="rim", value=1), Label(name="core", value=2)),
    regions=(
        Region(name="whole", labels=("rim", "core"), written=1),
        Region(name="inner", labels=("core",), written=2),
    ),
)


def largest_by_scipy(mask):
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = ndimage.sum_labels(mask, components, range(1, count + 1))
    return components == 1 + int(np.argmax(sizes))


@pytest.mark.parametrize("seed", range(5))
def test_only_the_largest_component_of_each_structure_is_left(seed):
    labels = (np.random.default_rng(seed).random((9, 10, 11)) > 0.93).astype(np.uint8)
    labels[np.random.default_rng(seed + 50).random(labels.shape) > 0.93] = 2
    for place, name in ((1, "one"), (2, "two")):
        expected = np.where((labels == place) & ~largest_by_scipy(labels == place), 0, labels)
        np.testing.assert_array_equal(apply_rule(labels, name, TABLE), expected)
    expected = np.where(largest_by_scipy(labels > 0), labels, 0)
    np.testing.assert_array_equal(apply_rule(labels, FOREGROUND, TABLE), expected)


def test_labels_with_one_component_are_given_back_as_they_are():
    labels = np.zeros((4, 4, 4), np.uint8)
    assert apply_rule(labels, FOREGROUND, TABLE) is labels
    labels[1:3, 1:3, 1:3] = 2
    assert apply_rules(labels, [ComponentRule(target=FOREGROUND), ComponentRule(target="two")], TABLE) is labels


def test_what_is_taken_from_an_inner_region_falls_to_the_one_around_it():
    labels = np.zeros((1, 5, 12), np.uint8)
    labels[0, 1:4, 1:11] = 1
    labels[0, 2, 2:6] = 2
    labels[0, 2, 8] = 2
    cleaned = apply_rule(labels, "inner", NESTED)
    assert cleaned[0, 2, 8] == 1
    assert (cleaned == 2).sum() == 4


def test_rules_are_learned_where_they_help_and_nowhere_else():
    truth = np.zeros((6, 12, 20), np.uint8)
    truth[1:4, 2:6, 2:6] = 1
    truth[1:4, 2:4, 10:12] = truth[1:4, 8:10, 16:18] = 2  # two parts, both true
    stray = truth.copy()
    stray[5, 11, 0] = 1
    pairs = {"a": (stray, truth), "b": (truth, truth)}
    rules, dice = learn_rules(["a", "b"], pairs.__getitem__, TABLE)
    assert [(rule.target, rule.cases) for rule in rules] == [("one", 1)]
    assert rules[0].gain > 0
    np.testing.assert_array_equal(dice, 1.0)


def test_the_rule_for_all_structures_is_kept_only_where_no_structure_falls():
    truth = np.zeros((3, 9, 9), np.uint8)
    truth[1, 1:5, 1:5] = 1
    truth[1, 5:7, 1:5] = 2
    stray = truth.copy()
    stray[1, 8, 8] = 1
    rules, dice = learn_rules(["a"], {"a": (stray, truth)}.__getitem__, TABLE)
    assert [rule.target for rule in rules] == [FOREGROUND]
    assert dice.tolist() == [[1.0, 1.0]]
