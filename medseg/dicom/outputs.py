"""All that is written of one series: DICOM objects on its own frames, NIfTI, a table, a picture.

Knows nothing of where the Labels come from. Everything goes into one folder that the caller puts in place when it is
whole. Names of files are the same for every study and tell nothing of the patient.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.dicom.codes import meaning_of
from medseg.dicom.contours import make_structure_set
from medseg.dicom.deidentify import mark
from medseg.dicom.formats import FILES, TABLE, Format
from medseg.dicom.origin import NOT_FOR_CLINICAL_USE, Origin
from medseg.dicom.parametric_map import make_entropy_map
from medseg.dicom.segmentation import Segment, make_segmentation, segments_of
from medseg.dicom.structured_report import make_report
from medseg.errors import MedsegError
from medseg.evaluation.measurements import Measurement, VolumeInterval, measure_structure
from medseg.evaluation.palette import colors_of, topmost
from medseg.evaluation.pictures import draw_comparison
from medseg.images.dicom.series import Series
from medseg.images.formats import write_labels
from medseg.images.volume import Volume


@dataclass(frozen=True, eq=False)
class Found:
    """What a model has found in one series."""

    series: Series
    headers: Sequence[Dataset]
    """One for each of the series' files, as the objects shall refer to them."""
    image: Volume
    """(C, Z, Y, X) on the grid of the series' Volume."""
    channels: tuple[str, ...]
    labels: Labels
    """Indices (Z, Y, X) on the same grid."""
    table: LabelTable
    origin: Origin
    entropy: NDArray[np.float32] | None = None
    """Nats, on the same grid."""
    intervals: Mapping[str, VolumeInterval] = field(default_factory=dict)
    """Of the volume of structures, by name."""
    warnings: tuple[str, ...] = ()
    """What has to be known of the image before any of it is believed."""
    marked: bool = False
    """Say in every object that the patient's identity was removed; the headers are those of such images."""

    def save(self, dataset: Dataset, path: Path) -> None:
        """Write an object."""
        if self.marked:
            mark(dataset)
        dataset.save_as(path, enforce_file_format=True)


def write_outputs(
    folder: Path, found: Found, formats: Collection[Format], kind: Literal["BINARY", "LABELMAP"] = "BINARY"
) -> tuple[list[Measurement], list[str]]:
    """Write the asked formats; returns the measurements and what a user should know.

    Raises GeometryError where the series can't carry DICOM objects, MedsegError where the disk refuses.
    """
    segments = segments_of(found.labels, found.table)
    measured = measure(found)
    remarks = [
        f"'{segment.target.name}' has no standard code and is written as Tissue. Give it a code in labels.yaml."
        for segment in segments
        if not meaning_of(segment.target.name, segment.target.code).known
    ]
    remarks += _write_dicom(folder, found, segments, measured, formats, kind)
    if "nifti" in formats:
        write_labels(folder / FILES["nifti"], found.table.to_values(found.labels), found.image)
        found.table.save(folder / TABLE)
    if "csv" in formats:
        write_table(folder / FILES["csv"], measured)
    if "png" in formats:
        _draw(folder / FILES["png"], found, {one.structure: one.volume_ml for one in measured})
    return measured, remarks


def measure(found: Found) -> list[Measurement]:
    """Every structure that has a voxel."""
    measured = (
        measure_structure(
            target.name,
            target.mask(found.labels),
            found.image.affine,
            found.image.array,
            found.channels,
            found.entropy,
            found.intervals.get(target.name),
        )
        for target in found.table.targets
    )
    return [one for one in measured if one is not None]


def on_frames(series: Series, headers: Sequence[Dataset], values: NDArray[Any]) -> NDArray[Any]:
    """Values of the Volume's grid (Z, Y, X) for every frame of the series' files, in their order; 0 on other frames."""
    slices = series.on_slices(values)
    first: dict[Path, int] = {}
    count = 0
    for path, header in zip(series.files, headers, strict=True):
        first[path] = count
        count += int(header.get("NumberOfFrames") or 1)
    frames = np.zeros((count, *slices.shape[1:]), slices.dtype)
    for one, plane in zip(series.slices, slices, strict=True):
        frames[first[one.path] + one.frame.number] = plane
    return frames


def _write_dicom(
    folder: Path,
    found: Found,
    segments: Sequence[Segment],
    measured: Sequence[Measurement],
    formats: Collection[Format],
    kind: Literal["BINARY", "LABELMAP"],
) -> list[str]:
    remarks: list[str] = []
    frames = on_frames(found.series, found.headers, found.labels)
    segmentation = None
    if segments and {"seg", "sr"} & set(formats):
        segmentation = make_segmentation(found.headers, frames, segments, found.origin, kind)
        if "seg" in formats:
            found.save(segmentation, folder / FILES["seg"])
    if not segments:
        remarks.append("No structure was found, so there is no segmentation.")
    if "sr" in formats:
        by_name = {one.structure: one for one in measured}
        report = make_report(found.headers, segmentation, segments, by_name, found.origin, found.warnings)
        found.save(report, folder / FILES["sr"])
    if "rtstruct" in formats and segments:
        if len(found.headers) != len(frames):
            remarks.append("No RT Structure Set was written: contours refer to single images, and this is one file.")
        else:
            structures = make_structure_set(found.headers, frames, segments, found.origin)
            found.save(structures, folder / FILES["rtstruct"])
    if "pmap" in formats:
        if found.entropy is None:
            raise MedsegError("A parametric map was asked for, but no entropy was computed.")
        entropy = on_frames(found.series, found.headers, found.entropy)
        largest = log(2) if found.table.activation == "sigmoid" else log(found.table.outputs)
        found.save(make_entropy_map(found.headers, entropy, largest, found.origin), folder / FILES["pmap"])
    return remarks


def write_table(path: Path, measured: Sequence[Measurement]) -> None:
    """One row for each structure; units are in the names of the columns."""
    channels = [part.channel for part in measured[0].intensities] if measured else []
    columns = ["structure", "volume_ml", "largest_diameter_mm", "voxels", "parts", "x_mm", "y_mm", "z_mm"]
    columns += [f"{channel}_{what}" for channel in channels for what in ("mean", "sd", "min", "max")]
    entropy = any(one.mean_entropy_nats is not None for one in measured)
    columns += ["mean_entropy_nats"] if entropy else []
    interval = any(one.volume_interval is not None for one in measured)
    columns += ["volume_low_ml", "volume_high_ml", "volume_rate"] if interval else []
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for one in measured:
            row: list[object] = [one.structure, f"{one.volume_ml:.6g}", f"{one.largest_diameter_mm:.2f}"]
            row += [one.voxels, one.parts, *(f"{value:.2f}" for value in one.centre_mm)]
            for part in one.intensities:
                values = (part.mean, part.standard_deviation, part.minimum, part.maximum)
                row += [f"{value:.6g}" for value in values]
            row += [f"{one.mean_entropy_nats:.6g}"] if entropy else []
            if interval:
                known = one.volume_interval
                row += ["", "", ""] if known is None else [f"{known.low_ml:.6g}", f"{known.high_ml:.6g}", known.rate]
            writer.writerow(row)


def _draw(path: Path, found: Found, volumes_ml: Mapping[str, float]) -> None:
    """The first channel without and with the structures, and their volumes."""
    image, table = found.image, found.table
    names = [f"{name}  {volumes_ml[name]:.3g} mL" if name in volumes_ml else name for name in table.target_names]
    draw_comparison(
        path,
        image.array[0],
        None,
        topmost(found.labels, table),
        image.spacing,
        names,
        colors_of(table.targets),
        f"{found.origin.name}   {NOT_FOR_CLINICAL_USE}",
        image.affine,
    )
