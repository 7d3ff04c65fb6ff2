"""Structures that are small or rare in a Dataset, and the sampling that is meant for them.

Knows nothing of how patches are drawn (``medseg.training.sampling``). Whether a Plan takes the settings is the Preset's
say: they are only named until they have been shown to help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.cases.labels import LabelTable
from medseg.cases.laterality import named_by_side
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import SamplingPlan

_RARE = 0.1
"""A structure that fewer than this share of the Cases hold is rare."""
_COPIES = 0.5


@dataclass(frozen=True)
class SmallStructure:
    """A target that patches hold too seldom, or of which they hold too little."""

    name: str
    share: float
    """Median share of the volume over the Cases that hold it."""
    cases: int
    """How many hold it."""
    is_small: bool
    """By its volume; otherwise it is only rare."""


def find_small(fingerprint: Fingerprint, labels: LabelTable, below: float) -> tuple[SmallStructure, ...]:
    """Targets whose median share of the volume is under ``below``, or that few of the Cases hold."""
    found = []
    for number, target in enumerate(labels.targets):
        share, holders = fingerprint.share_of(target, number)
        if holders and (share < below or holders < _RARE * fingerprint.count):
            found.append(SmallStructure(target.name, share, holders, share < below))
    return tuple(found)


def sampling_for(small: Sequence[SmallStructure]) -> SamplingPlan:
    """What is meant for them. Structures with a side are never copied: they could end on the other one."""
    sided = named_by_side([one.name for one in small])
    copied = tuple(one.name for one in small if one.name not in sided)
    return SamplingPlan(
        balanced=True,
        size_aware=any(one.is_small for one in small),
        copy_paste=_COPIES if copied else 0.0,
        rare=copied,
    )


def describe_small(small: Sequence[SmallStructure], total: int) -> str:
    """``lesion takes 0.008 % of the volume, tumour is in 2 of 40 cases``."""
    parts = [
        f"{one.name} takes {100 * one.share:.2g} % of the volume"
        if one.is_small
        else f"{one.name} is in {one.cases} of {total} cases"
        for one in small
    ]
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    return ", ".join(parts[:3]) + more


def as_words(sampling: SamplingPlan) -> str:
    """The settings as ``medseg train`` takes them."""
    words = ["sampling.balanced=true", *(["sampling.size_aware=true"] if sampling.size_aware else [])]
    if sampling.copy_paste:
        names = ",".join(f'"{name}"' for name in sampling.rare)
        words += [f"sampling.copy_paste={sampling.copy_paste:g}", f"'sampling.rare=[{names}]'"]
    return " ".join(words)
