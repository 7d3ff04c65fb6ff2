"""Which series of a study become the channels of a model, and all of them on the grid of the first.

Knows no network. The rules are those of ``medseg.images.dicom.selection``. Series of one examination need not share a
grid: where they share a frame of reference, the others are interpolated (linearly) at the voxels of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.dicom.study import Choice, Study, lines_of
from medseg.errors import DatasetError, GeometryError
from medseg.images.dicom.manifest import ChannelChoice
from medseg.images.dicom.selection import SeriesRules, choose_series
from medseg.images.dicom.series import Series
from medseg.images.volume import Volume, corner_distance_mm

_SAME_PLACE_MM = 0.01
_LEAST_SHARE = 0.5
"""A channel that covers less of the reference's volume than this is another examination."""


def choose(study: Study, rules: SeriesRules) -> Choice:
    """The series of a study by the rules. Raises DatasetError where a channel has none, GeometryError where they lie
    in different frames of reference.
    """
    if not study.series:
        reasons = sorted({f"{one.verdict} ({one.geometry.detail})" for one in study.refused})
        raise DatasetError(f"No series of the study makes a volume that is safe to use: {'; '.join(reasons)}.")
    chosen, choices = choose_series(study.series, rules)
    reference = chosen[0]
    for channel, other in zip(rules.channels[1:], chosen[1:], strict=True):
        if not reference.frame_of_reference_uid or other.frame_of_reference_uid != reference.frame_of_reference_uid:
            raise GeometryError(
                f"The series for '{channel.channel}' has another frame of reference than that for "
                f"'{rules.channels[0].channel}', so nothing says how they lie to one another. Register them first."
            )
    used = [(one, choice.channel) for one, choice in zip(chosen, choices, strict=True)]
    return Choice(
        reference=reference,
        read=lambda: read_together(chosen),
        lines=lines_of(study, used, _reasons(choices)),
        used=tuple(chosen),
        remarks=tuple(
            f"{len(choice.runners_up)} other series would have fitted the channel '{choice.channel}'."
            for choice in choices
            if choice.runners_up
        ),
    )


def _reasons(choices: Sequence[ChannelChoice]) -> dict[str, str]:
    """Why a series was passed over, by its name; the first channel that it would have fitted counts most."""
    reasons = {passed.series: passed.reason for choice in choices for passed in choice.unfit}
    return reasons | {passed.series: passed.reason for choice in choices for passed in choice.runners_up}


def read_together(chosen: Sequence[Series]) -> Volume:
    """The image (C, Z, Y, X) on the grid of the first series. Raises GeometryError where another hardly overlaps it."""
    reference = chosen[0].read()
    arrays, remarks = [reference.array], list(reference.remarks)
    for number, series in enumerate(chosen[1:], start=2):
        volume = series.read()
        remarks += volume.remarks
        if volume.shape == reference.shape and _apart_mm(volume, reference) <= _SAME_PLACE_MM:
            arrays.append(volume.array)
            continue
        array, share = _interpolated(volume, reference)
        if share < _LEAST_SHARE:
            raise GeometryError(
                f"Channel {number} covers only {share:.0%} of the first channel's volume. Choose other series."
            )
        remarks.append(f"Channel {number} was interpolated on the grid of the first; it covers {share:.0%} of it.")
        arrays.append(array)
    return replace(reference, array=np.concatenate(arrays), remarks=tuple(dict.fromkeys(remarks)))


def _apart_mm(first: Volume, second: Volume) -> float:
    return corner_distance_mm(first.affine, second.affine, first.shape)


def _interpolated(volume: Volume, reference: Volume) -> tuple[NDArray[np.float32], float]:
    """A volume at the reference's voxels, its lowest value outside of it; and the share of them that lies inside."""
    matrix = np.linalg.inv(volume.affine) @ reference.affine
    lowest = float(volume.array.min())
    result = np.empty((1, *reference.shape), np.float32)
    ndimage.affine_transform(
        volume.array[0], matrix, output_shape=reference.shape, output=result[0], order=1, cval=lowest
    )
    there = np.ones(volume.shape, np.uint8)
    inside = ndimage.affine_transform(there, matrix, output_shape=reference.shape, order=0)
    return result, float(inside.mean())
