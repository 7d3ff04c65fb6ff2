"""Stored pixels become numbers of their modality: Hounsfield units, activity, or whatever the scanner means.

Knows nothing of stacks. Each frame is rescaled by its own slope and intercept; padding becomes air; MONOCHROME1 is a
matter of display and changes nothing, except in X-ray pictures, whose numbers mean nothing but brightness. What
pydicom's plugins can't decode is decoded by ITK.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  (the name that its whole documentation uses)
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg.errors import ImageFileError

_BRIGHTNESS_ONLY = {"CR", "DX", "MG", "XA", "RF", "IO", "PX"}
AIR_HU = -1000.0


def read_frames(path: Path, numbers: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Frames ``(n, rows, columns)`` of a file in the units of its modality, and where they are padding.

    Raises ImageFileError where the pixels can't be decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, force=True)
            _name_syntax(dataset)
            stored = _stored(dataset, path)[list(numbers)]
            padding = _padding(dataset, stored)
            values = np.stack([_rescaled(dataset, frame, n) for frame, n in zip(stored, numbers, strict=True)])
        except ImageFileError:
            raise
        except Exception as error:  # decoders raise almost anything on damaged streams
            raise _undecodable(path, error) from None
    if not np.isfinite(values).all():
        raise ImageFileError("nan", f"{path} holds voxels that are not finite.", "Export the file again.")
    return values.astype(np.float32), padding


def fill_padding(volume: NDArray[np.float32], padding: NDArray[np.bool_], modality: str) -> None:
    """Put air where nothing was measured: -1000 HU in CT, elsewhere 0, or the smallest value where one is below 0."""
    if padding.any():
        volume[padding] = AIR_HU if modality == "CT" else min(0.0, float(volume[~padding].min(initial=0.0)))


def _name_syntax(dataset: FileDataset) -> None:
    """A file without meta information does not name its transfer syntax; pydicom has seen which one it is."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        uncompressed = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else uncompressed


def _stored(dataset: Dataset, path: Path) -> NDArray[Any]:
    """All frames (n, rows, columns) as they are stored."""
    try:
        array = dataset.pixel_array
    except Exception as error:
        array = _decoded_by_itk(dataset, path, error)
    return array.reshape(-1, *array.shape[-2:])


def _decoded_by_itk(dataset: Dataset, path: Path, error: Exception) -> NDArray[Any]:
    """The same through ITK, which has decoders of its own; it would rescale and invert, so it is given no reason to."""
    plain = Dataset()
    plain.file_meta = dataset.file_meta
    for tag in dataset:
        if tag.tag.group in (0x0008, 0x0020, 0x0028, 0x7FE0) and tag.VR != "SQ":
            plain.add(tag)
    for name in ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue"):
        plain.pop(name, None)
    if plain.get("PhotometricInterpretation") == "MONOCHROME1":
        plain.PhotometricInterpretation = "MONOCHROME2"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "plain.dcm"
        try:
            plain.save_as(copy, enforce_file_format=True)
            return sitk.GetArrayFromImage(sitk.ReadImage(str(copy), imageIO="GDCMImageIO"))
        except Exception:
            raise _undecodable(path, error) from None


def _rescaled(dataset: Dataset, frame: NDArray[Any], number: int) -> NDArray[np.float64]:
    if dataset.get("Modality") in _BRIGHTNESS_ONLY and dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        largest = 2 ** int(dataset.BitsStored) - 1 if not dataset.PixelRepresentation else -1
        frame = largest - frame.astype(np.int64)
    own = _transformation(dataset, number)
    return np.asarray(apply_modality_lut(frame, own), dtype=np.float64)


def _transformation(dataset: Dataset, number: int) -> Dataset:
    """Where slope and intercept (or a table) of a frame stand: in its functional groups, the shared ones, the file."""
    groups = [dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")]
    for items, place in zip(groups, (number, 0), strict=True):
        if items and "PixelValueTransformationSequence" in items[place]:
            return items[place].PixelValueTransformationSequence[0]
    return dataset


def _padding(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    low = _as_stored(dataset, "PixelPaddingValue")
    if low is None:
        return np.zeros(stored.shape, dtype=bool)
    high = _as_stored(dataset, "PixelPaddingRangeLimit")
    low, high = (low, low) if high is None else (min(low, high), max(low, high))
    return (stored >= low) & (stored <= high)


def _as_stored(dataset: Dataset, name: str) -> int | None:
    """A padding value as pixels hold it: writers confuse signed and unsigned (63536 is -2000)."""
    value = dataset.get(name)
    if value is None or value == "":
        return None
    number, bits = int(value), int(dataset.BitsAllocated)
    if dataset.PixelRepresentation and number >= 2 ** (bits - 1):
        return number - 2**bits
    return number + 2**bits if not dataset.PixelRepresentation and number < 0 else number


def _undecodable(path: Path, error: Exception) -> ImageFileError:
    return ImageFileError(
        "undecodable-pixels",
        f"The pixels of {path} can't be decoded: {' '.join(str(error).split())[:300]}.",
        "Export the file again, or convert it to an uncompressed transfer syntax.",
    )
