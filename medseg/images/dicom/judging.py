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
from medseg.images.dicom.geometry import SAME_PLACE_MM, Geometry, distances, judge, orientation_problem
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
    headers = list(headers)
    kept, copies, liars = _one_of_each_uid(headers)
    stacks = list(sort_into_stacks(kept))
    parts = Counter((stack.slices[0].header.study_uid, stack.slices[0].header.series_uid) for stack in stacks)
    for stack in stacks:
        first = stack.slices[0].header
        judged = _judged(stack, liars)
        known = {one.uid for one in judged.series.slices}
        own = tuple(one for one in copies if one.uid in known)
        if own and judged.series.verdict in {Verdict.REGULAR, Verdict.IOP_SNAPPED}:
            judged = _with_verdict(judged, Verdict.DUPLICATE_RESOLVED, f"{len(own)} copies left out")
        remarks = _remarks(judged.series, parts[first.study_uid, first.series_uid])
        series = replace(judged.series, remarks=remarks, flags=_flags(first))
        yield Judged(series, (*judged.copies, *own))


def _one_of_each_uid(headers: Sequence[Header]) -> tuple[list[Header], list[Slice], set[str]]:
    """One file for each SOPInstanceUID, the copies, and UIDs that two different images claim."""
    by_uid: dict[str, list[Header]] = {}
    for header in headers:
        by_uid.setdefault(header.sop_instance_uid, []).append(header)
    kept: list[Header] = []
    copies: list[Slice] = []
    liars: set[str] = set()
    for uid, same in by_uid.items():
        first, *others = same
        kept.append(first)
        for other in others:
            if first.frames == other.frames and first.series_uid == other.series_uid and _same_pixels(first, other):
                copies += [Slice(other, frame) for frame in other.frames]
            else:
                kept.append(other)
                liars.add(uid)
    return kept, copies, liars


def _same_pixels(first: Header, second: Header) -> bool:
    numbers = [frame.number for frame in first.frames]
    try:
        one, other = (read_frames(header.path, numbers)[0] for header in (first, second))
    except ImageFileError:
        return False
    return one.shape == other.shape and bool((one == other).all())


def _judged(stack: Stack, liars: set[str]) -> Judged:
    slices = stack.slices
    first = slices[0].frame
    if any(one.frame.position is None for one in slices):
        return Judged(Series(slices, Geometry(Verdict.NO_GEOMETRY, "no ImagePositionPatient"), stack.part))
    problem = orientation_problem(first.orientation, first.pixel_spacing)
    if problem:
        return Judged(Series(slices, Geometry(Verdict.NO_GEOMETRY, problem), stack.part))
    slices = _in_order(slices)
    liar = next((one.uid for one in slices if one.uid in liars), None)
    if liar is not None:
        detail = f"two different images claim SOPInstanceUID {liar}"
        return Judged(Series(slices, Geometry(Verdict.CONFLICT, detail), stack.part))
    copies: tuple[Slice, ...] = ()
    if stack.clash:
        slices, copies, detail = _without_copies(slices)
        if detail:
            return Judged(Series(slices, Geometry(Verdict.CONFLICT, detail), stack.part))
    return _by_positions(slices, copies, stack.part)


def _by_positions(slices: tuple[Slice, ...], copies: tuple[Slice, ...], part: str) -> Judged:
    first = slices[0].frame
    assert first.orientation is not None and first.pixel_spacing is not None
    positions = np.array([one.frame.position for one in slices], dtype=np.float64)
    geometry = judge(positions, first.orientation, first.pixel_spacing)
    judged = Judged(Series(slices, geometry, part, first.orientation), copies)
    if geometry.verdict == Verdict.REGULAR and copies:
        return _with_verdict(judged, Verdict.DUPLICATE_RESOLVED, f"{len(copies)} copies left out")
    if geometry.verdict == Verdict.REGULAR and len({one.frame.orientation for one in slices}) > 1:
        return _with_verdict(judged, Verdict.IOP_SNAPPED, "orientations differ by rounding")
    return judged


def _with_verdict(judged: Judged, verdict: Verdict, detail: str) -> Judged:
    geometry = replace(judged.series.geometry, verdict=verdict, detail=detail)
    return replace(judged, series=replace(judged.series, geometry=geometry))


def _in_order(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    orientation = slices[0].frame.orientation
    assert orientation is not None
    where = distances(np.array([one.frame.position for one in slices], dtype=np.float64), orientation)
    order = sorted(range(len(slices)), key=lambda i: (where[i], slices[i].header.instance_number or 0, slices[i].uid))
    return tuple(slices[i] for i in order)


def _without_copies(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], tuple[Slice, ...], str]:
    """Slices at places of their own, those that equal one of them voxel for voxel, and what stands against it."""
    kept: list[Slice] = []
    copies: list[Slice] = []
    digests: dict[tuple[str, int], str] = {}

    def digest(one: Slice) -> str:
        key = (str(one.path), one.frame.number)
        if key not in digests:
            digests[key] = hashlib.sha256(read_frames(one.path, [one.frame.number])[0].tobytes()).hexdigest()
        return digests[key]

    for one in slices:
        same = next((other for other in reversed(kept) if _same_place(one, other)), None)
        if same is None:
            kept.append(one)
            continue
        try:
            equal = digest(one) == digest(same)
        except ImageFileError as error:
            return tuple(slices), (), error.sentence.rstrip(".")
        if not equal:
            detail = "slices at the same position differ, and nothing in their headers tells them apart"
            return tuple(slices), (), detail
        copies.append(one)
    return tuple(kept), tuple(copies), ""


def _same_place(first: Slice, second: Slice) -> bool:
    one, other = first.frame.position, second.frame.position
    assert one is not None and other is not None
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= SAME_PLACE_MM


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
