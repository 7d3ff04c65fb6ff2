"""A Case: one examination of one patient; and the reading of its files into one Volume.

Every file goes through ``medseg.images.formats``; nothing here knows a file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from medseg.cases.labels import LabelTable
from medseg.cases.laterality import named_by_side
from medseg.errors import Complaint, DatasetError, GeometryError
from medseg.images.formats import can_tell_orientation, is_dicom, peek_image, read_image, read_labels_for
from medseg.images.volume import Volume, require_same_grid


@dataclass(frozen=True)
class Case:
    """One examination: its image files in channel order (a colour file holds several channels) and its labels."""

    name: str
    images: tuple[Path, ...]
    labels: Path | None = None
    patient: str | None = None
    stratum: str | None = None
    """Of what every fold should have its share, such as the scanner or the hospital."""
    split: Literal["training", "test"] = "training"
    """test: kept for ``medseg test``, and never trained on."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the Case: images in channel order, then labels."""
        return (*self.images, *([self.labels] if self.labels else []))

    @property
    def group(self) -> str:
        """What must never be split over folds: the patient, or the case itself where no patient is named."""
        return self.patient if self.patient is not None else self.name


def read_case_image(case: Case, channels: int) -> Volume:
    """The Case's image, float32 ``(C, Z, Y, X)``, as stored.

    Raises DatasetError for an unreadable file or another number of channels, GeometryError when channels differ.
    """
    volumes = [read_image(path) for path in case.images]
    volumes = [volumes[0], *(on_one_grid(case, volumes[0], other, path) for path, other in _others(case, volumes))]
    array = volumes[0].array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
    if array.shape[0] != channels:
        raise DatasetError(
            f"Case '{case.name}' has {array.shape[0]} channel(s) in {', '.join(path.name for path in case.images)}, "
            f"but the dataset has {channels}. Add the missing file, or leave the case out."
        )
    return replace(volumes[0], array=array, remarks=tuple(x for volume in volumes for x in volume.remarks))


def peek_case_image(case: Case) -> Volume | None:
    """Size and place of the Case's image by the headers alone, with zeros that take no memory for voxels.

    None where a file tells them only as it is read. Raises DatasetError for a header that can't be read; the voxels,
    and whether the files fit, are not looked at.
    """
    volumes = [volume for volume in map(peek_image, case.images) if volume is not None]
    if len(volumes) < len(case.images):
        return None
    shape = (sum(len(volume.array) for volume in volumes), *volumes[0].shape)
    return replace(volumes[0], array=np.broadcast_to(np.float32(0), shape))


def on_one_grid(case: Case, first: Volume, other: Volume, path: Path) -> Volume:
    """Another channel (from ``path``) on the first one's grid, where it has to be already unless both are DICOM.

    Raises GeometryError where it is not, or where nothing says how two series lie to one another.
    """
    if is_dicom(path) and is_dicom(case.images[0]):
        from medseg.images.dicom.one_grid import onto_grid

        other = onto_grid(other, first)
    require_same_grid(first, other, f"Case '{case.name}': {case.images[0].name}", path.name)
    return other


def _others(case: Case, volumes: Sequence[Volume]) -> Iterator[tuple[Path, Volume]]:
    return zip(case.images[1:], volumes[1:], strict=True)


def read_case_labels(case: Case, table: LabelTable, image: Volume) -> Volume:
    """The Case's Labels as indices ``(Z, Y, X)``, on the image's grid; ``table.ignore_index`` where nobody annotated.

    Raises DatasetError for a missing or unreadable file or an unknown value, GeometryError for another grid.
    """
    if case.labels is None:
        raise DatasetError(f"Case '{case.name}' has no labels.")
    labels = read_labels_for(case.labels, image, table.values_by_name)
    require_same_grid(image, labels, f"Case '{case.name}': the image", "the labels")
    try:
        return replace(labels, array=table.to_indices(labels.array))
    except GeometryError:
        raise
    except DatasetError as error:
        raise DatasetError(f"Case '{case.name}': {error}") from None


def doubt_sides(case: Case, image: Volume, names: Sequence[str]) -> Complaint | None:
    """A Complaint where structures have a side but the image does not say how it lies in the patient.

    An error where the file could have said so; a warning for pictures, which never can: they have to be stored alike.
    """
    sided = named_by_side(names)
    if image.orientation_known or not sided:
        return None
    file = case.images[0]
    sentence = (
        f"Case '{case.name}': {file.name} does not say how it lies in the patient, "
        f"but the label '{sided[0]}' has a side."
    )
    if not can_tell_orientation(file):
        remedy = "Make sure that all pictures show the patient the same way round."
        return Complaint(case.name, "unknown-orientation", sentence, remedy, str(file), "warning")
    remedy = (
        "Write its orientation into the header (a code above 0 for sform or qform), leave the case out, or plan with "
        "preset=nnunet, which takes all axes as they are stored."
    )
    return Complaint(case.name, "unknown-orientation", sentence, remedy, str(file))
