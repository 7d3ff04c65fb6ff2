"""Post-processing by connected components: only the largest part of a structure is kept, where that was found to help.

Knows nothing of how the rules are learned (``medseg.inference.selection``). Rule: nnU-Net's; voxels that touch by a
corner are connected (26 neighbours). What is taken from a region falls to the region around it, else to the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np

from medseg.arrays import Labels, Mask
from medseg.cases.labels import LabelTable
from medseg.documents import Record

FOREGROUND = "*"
"""Stands for all structures together."""


class ComponentRule(Record):
    """Keep the largest component of one target, or of all structures together, and nothing else of it."""

    target: str
    """Name of a target, or ``*`` for all structures together."""
    gain: float = 0.0
    """By how much its mean Dice rose on out-of-fold predictions."""
    cases: int = 0
    """Out-of-fold predictions that it changed."""


def apply_rules(labels: Labels, rules: Sequence[ComponentRule], table: LabelTable) -> Labels:
    """Label indices ``(Z, Y, X)`` after each rule in turn; a copy where a rule changes something."""
    for rule in rules:
        labels = apply_rule(labels, rule.target, table)
    return labels


def apply_rule(labels: Labels, target: str, table: LabelTable) -> Labels:
    """Label indices with only the largest component of a target (``*``: of all structures) left."""
    if target == FOREGROUND:
        stray = _stray(labels > 0)
        return labels if stray is None else np.where(stray, 0, labels).astype(labels.dtype)
    place = table.target_names.index(target)
    mine = table.targets[place]
    stray = _stray(mine.mask(labels))
    if stray is None:
        return labels
    around = [one.written_index for one in table.targets[:place] if set(one.indices) > set(mine.indices)]
    return np.where(stray, around[-1] if around else 0, labels).astype(labels.dtype)


def _stray(mask: Mask) -> Mask | None:
    """The voxels outside the largest component; None where there is at most one. The first of equals is kept."""
    components, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    if count < 2:
        return None
    sizes = np.bincount(components.ravel())
    return mask & (components != 1 + int(np.argmax(sizes[1:])))
