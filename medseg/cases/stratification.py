"""Groups of Cases dealt into folds so that every fold has its share of what is rare.

Knows no Dataset: a group is a set of Cases that must stay together, with the traits that it brings. Rule: iterative
stratification (Sechidis, Tsoumakas and Vlahavas 2011): the rarest trait is dealt first, each time to the fold that
lacks it most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np


def deal(groups: Mapping[str, Counter[str]], sizes: Mapping[str, int], folds: int, seed: int) -> list[set[str]]:
    """The groups of each fold; ``groups`` counts how many Cases of each have a trait, ``sizes`` how many Cases it has.

    The same for the same seed, whatever the order of ``groups``.
    """
    random = np.random.default_rng(seed)
    waiting = [sorted(groups)[place] for place in random.permutation(len(groups))]
    traits = sum((Counter(groups[name]) for name in waiting), Counter[str]())
    lacking = {trait: np.full(folds, count / folds) for trait, count in traits.items()}
    room = np.full(folds, sum(sizes.values()) / folds)
    dealt: list[set[str]] = [set() for _ in range(folds)]
    while waiting:
        rarest = _rarest(groups, waiting)
        chosen = [name for name in waiting if rarest is None or groups[name][rarest]]
        for name in sorted(chosen, key=lambda name: -sizes[name]):  # large groups first: small ones even out the rest
            wish = lacking[rarest] if rarest is not None else room
            fold = max(range(folds), key=lambda place: (round(wish[place], 9), room[place], -place))
            dealt[fold].add(name)
            room[fold] -= sizes[name]
            for trait, count in groups[name].items():
                lacking[trait][fold] -= count
        done = set(chosen)
        waiting = [name for name in waiting if name not in done]
    return dealt


def _rarest(groups: Mapping[str, Counter[str]], waiting: list[str]) -> str | None:
    """The trait with the fewest Cases left; None where no group has any."""
    left = sum((Counter(groups[name]) for name in waiting), Counter[str]())
    return min(sorted(left), key=lambda trait: left[trait], default=None)
