from collections import Counter

import numpy as np

from medseg.cases.stratification import deal


def groups_of(count: int, rare: int, seed: int = 0) -> dict[str, Counter[str]]:
    random = np.random.default_rng(seed)
    names = [f"g{number:03d}" for number in random.permutation(count)]
    return {name: Counter(["rare"] if i < rare else []) + Counter([f"scanner {i % 3}"]) for i, name in enumerate(names)}


def test_every_fold_gets_its_share_of_each_trait():
    groups = groups_of(60, 10)
    folds = deal(groups, dict.fromkeys(groups, 1), 5, 1)
    assert sorted(set().union(*folds)) == sorted(groups)
    assert [sum(groups[name]["rare"] for name in fold) for fold in folds] == [2] * 5
    for scanner in range(3):
        assert [sum(groups[name][f"scanner {scanner}"] for name in fold) for fold in folds] == [4] * 5
    assert [len(fold) for fold in folds] == [12] * 5


def test_fewer_rare_groups_than_folds_are_spread():
    groups = groups_of(20, 3)
    folds = deal(groups, dict.fromkeys(groups, 1), 5, 1)
    assert sorted(sum(groups[name]["rare"] for name in fold) for fold in folds) == [0, 0, 1, 1, 1]


def test_the_result_follows_the_seed_and_not_the_order():
    groups = groups_of(30, 6)
    sizes = dict.fromkeys(groups, 1)
    assert deal(groups, sizes, 5, 7) == deal(dict(sorted(groups.items())), sizes, 5, 7)
    assert deal(groups, sizes, 5, 7) != deal(groups, sizes, 5, 8)


def test_large_patients_do_not_make_a_large_fold():
    sizes = {"big": 10, **{f"g{i}": 1 for i in range(30)}}
    folds = deal({name: Counter(["x"] * size) for name, size in sizes.items()}, sizes, 4, 1)
    assert sorted(sum(sizes[name] for name in fold) for fold in folds) == [10, 10, 10, 10]
