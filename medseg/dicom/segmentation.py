"""Labels as a DICOM Segmentation, in the orientation and on the frames of the images they were made from.

Knows nothing of models or folders. Follows PS3.3 A.51 and C.8.20: BINARY segments by default, which every viewer and
archive reads; LABELMAP (Supplement 243) where it is asked for. Frames without any structure are left out, and a
structure without any voxel is no segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medseg.arrays import Labels, label_dtype
from medseg.cases.labels import LabelTable, Target
from medseg.dicom.codes import meaning_of
from medseg.dicom.origin import Origin, new_object
from medseg.dicom.sources import as_sources
from medseg.errors import GeometryError
from medseg.evaluation.palette import colors_of


@dataclass(frozen=True)
class Segment:
    """One structure that was found."""

    number: int
    """From 1, without gaps."""
    target: Target
    color: tuple[int, int, int]
    tracking_uid: str
    """The same in the Segmentation and in the report."""


def segments_of(labels: Labels, table: LabelTable) -> list[Segment]:
    """The targets that have at least one voxel in label indices (Z, Y, X), in their order."""
    present = set(np.unique(labels).tolist())
    found = [
        (target, color)
        for target, color in zip(table.targets, colors_of(table.targets), strict=True)
        if present & set(target.indices)
    ]
    return [Segment(number, target, color, str(hd.UID())) for number, (target, color) in enumerate(found, start=1)]


def make_segmentation(
    sources: Sequence[Dataset],
    labels: Labels,
    segments: Sequence[Segment],
    origin: Origin,
    kind: Literal["BINARY", "LABELMAP"] = "BINARY",
) -> hd.seg.Segmentation:
    """The object, not yet written.

    ``sources`` are the headers of the series, one for each row of ``labels`` (indices, (Z, Y, X)) and in its order, or
    one enhanced image whose frames are. Raises GeometryError where they do not belong together.
    """
    return hd.seg.Segmentation(
        source_images=as_sources(sources, labels),
        pixel_array=_pixels(labels, segments, kind),
        segmentation_type=kind,
        segment_descriptions=[_describe(segment, origin) for segment in segments],
        content_description=origin.notice,
        content_label="MEDSEG",
        series_description=origin.series_description,
        **new_object("SEG"),
        **origin.equipment(),
    )


def _describe(segment: Segment, origin: Origin) -> hd.seg.SegmentDescription:
    target = segment.target
    meaning = meaning_of(target.name, target.code)
    return hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=target.name[:64],
        segmented_property_category=meaning.category,
        segmented_property_type=meaning.concept(),
        algorithm_type=origin.made,
        algorithm_identification=origin.algorithm(),
        tracking_uid=segment.tracking_uid,
        tracking_id=target.name[:64],
        display_color=hd.color.CIELabColor.from_rgb(*segment.color),
    )


def _pixels(labels: Labels, segments: Sequence[Segment], kind: str) -> NDArray[Any]:
    """Segment numbers (Z, Y, X); where segments overlap, one mask for each along a last axis."""
    if sum(len(segment.target.indices) for segment in segments) == len(
        {index for segment in segments for index in segment.target.indices}
    ):
        numbers = np.zeros(int(labels.max()) + 1, label_dtype(len(segments)))
        for segment in segments:
            numbers[[index for index in segment.target.indices if index < len(numbers)]] = segment.number
        return numbers[labels]
    if kind == "LABELMAP":
        raise GeometryError("A LABELMAP holds one segment a voxel, but these overlap. Write them as BINARY.")
    return np.stack([segment.target.mask(labels) for segment in segments], axis=-1).astype(np.uint8)
