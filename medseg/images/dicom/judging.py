"""A Stack becomes a Series: copies removed, slices put in order, doubts written down.

Knows nothing of folders. Pixels are read only where two slices claim the same place, to see whether they are copies.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.errors import ImageFileError
from medseg.images.dicom.geometry import Geometry, Vector, distances, judge, orientation_problem
from medseg.images.dicom.header import Header
from medseg.images.dicom.pixels import read_frames
from medseg.images.dicom.series import Series
from medseg.images.dicom.slices import Slice, Stack, sort_into_stacks
from medseg.images.dicom.verdict import Verdict

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LOCALIZERS = {"LOCALIZER", "SCOUT", "SCOUT_IMAGE", "SURVEY"}
_PROJECTIONS = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "MPR_THICK", "VOLREN"}


@dataclass(frozen=True)
class Judged:
    """A Series, and the slices that were left out of it because they are copies of others."""

    series: Series
    copies: tuple[Slice, ...] = ()


def judge_headers(headers: Iterable[Header]) -> Iterator[Judged]:
    """Every volume that the headers tell of, safe or not; series in the order of their UIDs."""
    kept, copied_files, liars = _one_of_each_uid(headers)
    slices, copied_slices = _one_at_each_place(kept)
    copies = [*copied_files, *copied_slices]
    stacks = list(sort_into_stacks(slices))
    parts = Counter(_series_of(stack.slices[0]) for stack in stacks)
    for stack in stacks:
        known = {(_series_of(one), one.frame.position) for one in stack.slices}
        own = tuple(one for one in copies if (_series_of(one), one.frame.position) in known)
        copies = [one for one in copies if one not in own]
        series = _judged(stack, liars, len(own))
        remarks = _remarks(series, parts[_series_of(stack.slices[0])])
        yield Judged(replace(series, remarks=remarks, flags=_flags(stack.slices[0].header)), own)


def _series_of(one: Slice) -> tuple[str, str]:
    return one.header.study_uid, one.header.series_uid


def _one_of_each_uid(headers: Iterable[Header]) -> tuple[list[Slice], list[Slice], set[str]]:
    """Frames of one file for each SOPInstanceUID, those of its copies, and UIDs that two different images claim."""
    by_uid: dict[str, list[Header]] = {}
    for header in headers:
        by_uid.setdefault(header.sop_instance_uid, []).append(header)
    kept: list[Slice] = []
    copies: list[Slice] = []
    liars: set[str] = set()
    for uid, (first, *others) in by_uid.items():
        kept += [Slice(first, frame) for frame in first.frames]
        for other in others:
            slices = [Slice(other, frame) for frame in other.frames]
            if first.frames == other.frames and first.series_uid == other.series_uid and _same_pixels(first, other):
                copies += slices
            else:
                kept += slices
                liars.add(uid)
    return kept, copies, liars


def _same_pixels(first: Header, second: Header) -> bool:
    return all(
        _digest(Slice(first, one)) == _digest(Slice(second, other))
        for one, other in zip(first.frames, second.frames, strict=True)
    )


def _one_at_each_place(slices: Iterable[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Slices, and those that equal one of them in place, in all that could tell them apart, and voxel for voxel."""
    alike: dict[object, list[Slice]] = {}
    for one in slices:
        alike.setdefault((_series_of(one), one.frame.position, one.frame.orientation, one.frame.traits), []).append(one)
    kept: list[Slice] = []
    copies: list[Slice] = []
    for group in alike.values():
        if len(group) == 1 or group[0].frame.position is None:
            kept += group
            continue
        seen: set[str] = set()
        for one in group:
            digest = _digest(one)
            (copies if digest in seen else kept).append(one)
            seen.add(digest)
    return kept, copies


def _digest(one: Slice) -> str:
    """Of a frame's voxels; of its file's name where they can't be decoded, so that it equals no other."""
    try:
        values = read_frames(one.path, [one.frame.number])[0]
    except ImageFileError:
        return str(one.path)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def _judged(stack: Stack, liars: set[str], copies: int) -> Series:
    """The stack with its verdict, without remarks and flags."""
    first, slices, part = stack.slices[0].frame, stack.slices, stack.part
    if first.position is None:
        return Series(slices, Geometry(Verdict.NO_GEOMETRY, "the headers have no ImagePositionPatient"), part)
    problem = orientation_problem(first.orientation, first.pixel_spacing)
    if problem or first.orientation is None or first.pixel_spacing is None:
        return Series(slices, Geometry(Verdict.NO_GEOMETRY, problem), part)
    slices = _in_order(slices, first.orientation)
    liar = next((one.uid for one in slices if one.uid in liars), None)
    if liar is not None:
        detail = f"two different images claim SOPInstanceUID {liar}"
        return Series(slices, Geometry(Verdict.CONFLICT, detail), part, first.orientation)
    if stack.clash:
        detail = "slices at the same position differ, and nothing in their headers tells the volumes apart"
        return Series(slices, Geometry(Verdict.CONFLICT, detail), part, first.orientation)
    geometry = judge(_positions(slices), first.orientation, first.pixel_spacing)
    if geometry.verdict == Verdict.REGULAR and copies:
        geometry = replace(geometry, verdict=Verdict.DUPLICATE_RESOLVED, detail=f"{copies} copies left out")
    elif geometry.verdict == Verdict.REGULAR and len({one.frame.orientation for one in slices}) > 1:
        detail = "orientations differ by rounding, and are taken as the first one's"
        geometry = replace(geometry, verdict=Verdict.IOP_SNAPPED, detail=detail)
    return Series(slices, geometry, part, first.orientation)


def _positions(slices: Sequence[Slice]) -> Vector:
    return np.array([one.frame.position for one in slices], dtype=np.float64)


def _in_order(slices: Sequence[Slice], orientation: Sequence[float]) -> tuple[Slice, ...]:
    where = distances(_positions(slices), orientation)
    return tuple(slices[i] for i in sorted(range(len(slices)), key=lambda i: (where[i], slices[i].uid)))


def _remarks(series: Series, parts: int) -> tuple[str, ...]:
    """Doubts about completeness; that no slice is missing at the ends can't be proven."""
    remarks = []
    if parts > 1:
        remarks.append(f"one of {parts} volumes of its series ({series.part})")
    numbers = sorted({one.header.instance_number for one in series.slices if one.header.instance_number is not None})
    single_frames = len(series.files) == len(series.slices)
    if single_frames and numbers and parts == 1:
        if numbers[0] != 1:
            remarks.append(f"InstanceNumber starts at {numbers[0]}: slices may be missing at one end")
        if len(numbers) == len(series.slices) and numbers[-1] - numbers[0] + 1 != len(numbers):
            remarks.append("InstanceNumber has holes: slices may be missing")
    told = series.slices[0].header.instances_in_series
    if told is not None and parts == 1 and told != len(series.files):
        remarks.append(f"the header tells of {told} files in the series, and {len(series.files)} are there")
    return tuple(remarks)


def _flags(header: Header) -> tuple[str, ...]:
    kinds = set(header.image_type)
    found = {
        "secondary_capture": header.sop_class_uid.startswith(_SECONDARY_CAPTURE),
        "localizer": bool(kinds & _LOCALIZERS),
        "derived": "DERIVED" in kinds,
        "projection": bool(kinds & _PROJECTIONS),
        "burned_in": header.burned_in,
    }
    return tuple(name for name, is_so in found.items() if is_so)
