"""Frames of files sorted into the stacks that they belong to.

Knows no pixels. One SeriesInstanceUID may hold several volumes: other sizes, directions or kinds of image are other
stacks at once; phases and echoes are told apart only where positions repeat, and only by a value of the header under
which each position occurs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.images.dicom.geometry import ORIENTATION_TOLERANCE, SAME_PLACE_MM
from medseg.images.dicom.header import SPLITTING, Frame, Header

_SPACING_TOLERANCE_MM = 1e-4


@dataclass(frozen=True)
class Slice:
    """One frame of one file: what becomes one index z of a volume."""

    header: Header
    frame: Frame

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def uid(self) -> str:
        """SOPInstanceUID of its file."""
        return self.header.sop_instance_uid


@dataclass(frozen=True)
class Stack:
    """Slices that could be one volume, and by what they differ from the others of their series."""

    slices: tuple[Slice, ...]
    part: str = ""
    """Such as ``EchoTime=4.6``; empty where the series is one stack."""
    clash: bool = False
    """Positions repeat, and nothing tells the slices apart."""


def sort_into_stacks(slices: Iterable[Slice]) -> Iterator[Stack]:
    """Every slice in exactly one stack; series in the order of their UIDs."""
    series: dict[tuple[str, str], list[Slice]] = {}
    for one in slices:
        series.setdefault((one.header.study_uid, one.header.series_uid), []).append(one)
    for _, own in sorted(series.items()):
        yield from _stacks_of_series(own)


def _stacks_of_series(slices: Sequence[Slice]) -> Iterator[Stack]:
    groups: list[list[Slice]] = []
    for one in slices:
        group = next((group for group in groups if _belong_together(group[0], one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    for number, group in enumerate(groups):
        part = f"group={number + 1}" if len(groups) > 1 else ""
        yield from _split(group, SPLITTING, part)


def _belong_together(first: Slice, second: Slice) -> bool:
    one, other = first.header, second.header
    return (
        (one.rows, one.columns, one.samples, one.modality, one.sop_class_uid, one.frame_of_reference_uid)
        == (other.rows, other.columns, other.samples, other.modality, other.sop_class_uid, other.frame_of_reference_uid)
        and _close(first.frame.pixel_spacing, second.frame.pixel_spacing, _SPACING_TOLERANCE_MM)
        and _close(first.frame.orientation, second.frame.orientation, ORIENTATION_TOLERANCE)
        and (first.frame.position is None) == (second.frame.position is None)
    )


def _close(first: Sequence[float] | None, second: Sequence[float] | None, tolerance: float) -> bool:
    if first is None or second is None:
        return first is second
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) <= tolerance


def _split(slices: Sequence[Slice], traits: Sequence[str], part: str) -> Iterator[Stack]:
    if not _repeats(slices):
        yield Stack(tuple(slices), part)
        return
    found = _separated(slices, traits, part)
    if found is None:
        yield Stack(tuple(slices), part, clash=True)
    else:
        yield from found


def _separated(slices: Sequence[Slice], traits: Sequence[str], part: str) -> list[Stack] | None:
    """Stacks without repeating positions, the largest of which covers all of them; None where no value gives such."""
    if not _repeats(slices):
        return [Stack(tuple(slices), part)]
    for place, trait in enumerate(traits):
        values: dict[str, list[Slice]] = {}
        for one in slices:
            values.setdefault(one.frame.traits[SPLITTING.index(trait)], []).append(one)
        if len(values) < 2 or not _largest_covers_all(slices, list(values.values())):
            continue
        stacks: list[Stack] = []
        for value, group in sorted(values.items(), key=lambda item: _by_number(item[0])):
            name = ", ".join(x for x in (part, f"{trait}={value}") if x)
            separated = _separated(group, traits[place + 1 :], name)
            if separated is None:
                break
            stacks += separated
        else:
            return stacks
    return None


def _by_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return 0.0, value


def _largest_covers_all(slices: Sequence[Slice], groups: Sequence[Sequence[Slice]]) -> bool:
    return max(len(_places(group)) for group in groups) == len(_places(slices))


def _repeats(slices: Sequence[Slice]) -> bool:
    return slices[0].frame.position is not None and len(_places(slices)) < len(slices)


def _places(slices: Sequence[Slice]) -> list[tuple[float, ...]]:
    """The distinct positions, in order along the widest direction; nearer than 0.01 mm is the same."""
    positions = np.array([one.frame.position for one in slices], dtype=np.float64)
    order = np.lexsort(positions.T)
    distinct: list[np.ndarray] = []
    widest = int(np.ptp(positions, axis=0).argmax())
    for position in positions[np.argsort(positions[:, widest], kind="stable")] if len(order) else []:
        near = (other for other in reversed(distinct) if position[widest] - other[widest] <= SAME_PLACE_MM)
        if not any(np.abs(position - other).max() <= SAME_PLACE_MM for other in near):
            distinct.append(position)
    return [tuple(map(float, position)) for position in distinct]
