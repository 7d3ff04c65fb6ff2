"""A Series: slices in order, the verdict on them, and their voxels as a Volume.

Index z of the Volume of a regular series is slice z, and its y and x are rows and columns: nothing is flipped. One
that was allowed although it is irregular is interpolated on a regular grid; ``on_slices`` brings Labels back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.arrays import Spacing, Triple
from medseg.errors import GeometryError
from medseg.files import hash_content
from medseg.images.dicom.file import read_header
from medseg.images.dicom.geometry import Geometry
from medseg.images.dicom.pixels import fill_padding, read_frames
from medseg.images.dicom.regular import resample_labels_back, resample_stack
from medseg.images.dicom.slices import Slice
from medseg.images.dicom.verdict import SAFE, Verdict
from medseg.images.volume import Volume, spacing_of


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one series that make one volume, in ascending order along their normal (row x column)."""

    slices: tuple[Slice, ...] = field(repr=False)
    """Index z of the Volume, where the verdict is a safe one."""
    geometry: Geometry
    part: str = ""
    """Which volume of its series it is, such as ``EchoTime=4.6``; empty where there is only one."""
    orientation: tuple[float, ...] = ()
    """ImageOrientationPatient that all slices are taken to have."""
    remarks: tuple[str, ...] = ()
    """What a user should know: doubts about completeness, how it was split."""
    refusal: str = ""
    """Why it is refused although its geometry is safe, such as pixels that can't be decoded."""
    flags: tuple[str, ...] = ()
    """secondary_capture, localizer, derived, projection, burned_in."""

    @property
    def verdict(self) -> Verdict:
        return self.geometry.verdict

    @property
    def reason(self) -> str:
        """Why it is refused, or what the verdict means here; may be empty."""
        return self.refusal or self.geometry.detail

    @property
    def is_regular(self) -> bool:
        """Whether slices are the volume's planes, one to one."""
        return self.verdict in SAFE

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.slices[0].header.series_uid

    @property
    def study_uid(self) -> str:
        return self.slices[0].header.study_uid

    @property
    def frame_of_reference_uid(self) -> str:
        return self.slices[0].header.frame_of_reference_uid

    @property
    def modality(self) -> str:
        return self.slices[0].header.modality

    @property
    def description(self) -> str:
        return self.slices[0].header.description

    @property
    def number(self) -> int | None:
        """SeriesNumber."""
        return self.slices[0].header.series_number

    @property
    def image_type(self) -> tuple[str, ...]:
        return self.slices[0].header.image_type

    @property
    def has_contrast(self) -> bool:
        """Whether the header names a contrast agent."""
        return bool(self.slices[0].header.contrast_agent)

    @property
    def patient(self) -> str:
        """SHA-256 of the patient's ID; empty without one."""
        return self.slices[0].header.patient

    @property
    def name(self) -> str:
        """A file name for it that tells nothing of the patient: 16 digits of a hash of its UIDs and part."""
        return hash_content([self.study_uid, self.uid, self.part])[:16]

    @property
    def spacing(self) -> Spacing | None:
        """Millimetres (z, y, x) of the volume; None without geometry."""
        return None if self.geometry.affine is None else spacing_of(self.geometry.affine)

    @property
    def shape(self) -> Triple | None:
        """Voxels (z, y, x) of the volume; None without geometry."""
        if self.geometry.affine is None:
            return None
        header, (rows, columns) = self.slices[0].header, self.geometry.margin
        return self.geometry.planes, header.rows + rows, header.columns + columns

    @property
    def voxels(self) -> int:
        """Of all slices."""
        return len(self.slices) * self.slices[0].header.rows * self.slices[0].header.columns

    @property
    def files(self) -> tuple[Path, ...]:
        """Each file once, in the order of slices."""
        return tuple(dict.fromkeys(one.path for one in self.slices))

    def read_headers(self) -> list[Dataset]:
        """The whole header of each of ``files``, without pixels: ``source_images`` of what is written about it."""
        return [read_header(path) for path in self.files]

    def read(self) -> Volume:
        """The image, float32 ``(1, Z, Y, X)`` in units of the modality, with its RAS+ affine.

        Raises GeometryError without a grid, ImageFileError where a file can't be decoded any more.
        """
        if self.geometry.affine is None:
            raise GeometryError(f"Series {self.uid} makes no volume: {self.geometry.detail}.")
        stack, padding = self._read_stack()
        fill_padding(stack, padding, self.modality)
        array = stack if self.is_regular else resample_stack(stack, self.geometry, self.modality)
        return Volume(array[None], self.geometry.affine, header=self, remarks=self.remarks)

    def on_slices(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Values of the Volume's grid for each slice ``(len(slices), rows, columns)``: the nearest voxel's.

        Raises GeometryError for an array of another shape.
        """
        if labels.shape != self.shape:
            raise GeometryError(
                f"Labels for series {self.uid} should be {self.shape} (z, y, x), but are {labels.shape}."
            )
        if self.is_regular:
            return labels
        header = self.slices[0].header
        return resample_labels_back(labels, self.geometry, (header.rows, header.columns))

    def _read_stack(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        header = self.slices[0].header
        stack = np.empty((len(self.slices), header.rows, header.columns), dtype=np.float32)
        padding: NDArray[Any] = np.zeros(stack.shape, dtype=bool)
        places: dict[Path, list[int]] = {}
        for z, one in enumerate(self.slices):
            places.setdefault(one.path, []).append(z)
        for path, planes in places.items():
            stack[planes], padding[planes] = read_frames(path, [self.slices[z].frame.number for z in planes])
        return stack, padding
