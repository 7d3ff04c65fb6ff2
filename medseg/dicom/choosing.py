"""Which series of a study become the channels of a model, and all of them on the grid of the first.

Knows no network. The rules are those of ``medseg.images.dicom.selection``. Series of one examination need not share a
grid: where they share a frame of reference, the others are interpolated at the voxels of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medseg.dicom.study import Choice, Study, lines_of
from medseg.errors import DatasetError, GeometryError
from medseg.images.dicom.manifest import ChannelChoice
from medseg.images.dicom.one_grid import onto_grid
from medseg.images.dicom.selection import SeriesRules, choose_series
from medseg.images.dicom.series import Series
from medseg.images.volume import Volume

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
        share = _covered(volume, reference)
        if share < _LEAST_SHARE:
            raise GeometryError(
                f"Channel {number} covers only {share:.0%} of the first channel's volume. Choose other series."
            )
        moved = onto_grid(volume, reference)
        if moved is not volume:
            remarks.append(f"Channel {number} was interpolated on the grid of the first; it covers {share:.0%} of it.")
        arrays.append(moved.array)
        remarks += volume.remarks
    return replace(reference, array=np.concatenate(arrays), remarks=tuple(dict.fromkeys(remarks)))


def _covered(volume: Volume, reference: Volume) -> float:
    """The share of the reference's voxels that lie inside a volume, told from every fourth along each axis."""
    places = np.stack(np.meshgrid(*(np.arange(0, n, 4) for n in reference.shape), indexing="ij")).reshape(3, -1)
    matrix = np.linalg.inv(volume.affine) @ reference.affine
    found = matrix[:3, :3] @ places + matrix[:3, 3:]
    last = np.reshape(volume.shape, (3, 1)) - 1
    return float(((found >= -0.5) & (found <= last + 0.5)).all(axis=0).mean())
