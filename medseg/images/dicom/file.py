"""The first look at one file: an image's Header, a label file, or the reason why it is neither.

Knows nothing of series. Neither suffix nor preamble is relied on. Whether the pixels are all there is told from their
length alone, without reading them.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medseg.images.dicom.header import TAGS, Header, header_of
from medseg.images.formats import is_dicom

Kind = Literal["image", "labels", "other", "unreadable"]

_SEGMENTATIONS = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_NOT_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose: a grid with pixels, but not an examination
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66.5",  # Surface Segmentation
}
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


@dataclass(frozen=True)
class FirstLook:
    """What a file turned out to be."""

    path: Path
    kind: Kind
    reason: str = ""
    """Why it is no image that can be used; empty for images and labels."""
    header: Header | None = None
    """Of an image."""
    sop_class_uid: str = ""
    series_uid: str = ""
    referenced_series: tuple[str, ...] = ()
    """SeriesInstanceUIDs that a label file says it was drawn on."""
    frame_of_reference_uid: str = ""


def look_at(path: Path) -> FirstLook:
    """Look at one file; never raises for what is in it."""
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # pydicom warns of odd values, which are judged here by what is made of them
            return _look(path, stream)
    except OSError as error:
        return FirstLook(path, "unreadable", f"it can't be opened: {error.strerror or error}")
    except RecursionError:
        return FirstLook(path, "unreadable", "its sequences are nested without end")
    except Exception as error:  # a damaged header can make pydicom raise almost anything
        return FirstLook(path, "unreadable", f"its header can't be understood: {' '.join(str(error).split())[:200]}")


def read_header(path: Path) -> Dataset:
    """The whole header of a file that ``look_at`` has accepted, without pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def series_uid_of(path: Path) -> str:
    """The SeriesInstanceUID of a file, read alone; empty where there is none."""
    if not is_dicom(path):
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=True)
            return str(dataset.get("SeriesInstanceUID", ""))
        except Exception:  # a damaged file beside the series is not a part of it
            return ""


def _look(path: Path, stream: BinaryIO) -> FirstLook:
    if not is_dicom(path):
        return FirstLook(path, "other", "not DICOM")
    try:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
    except InvalidDicomError:
        stream.seek(0)
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        if "SOPClassUID" not in dataset:
            return FirstLook(path, "other", "not DICOM")
    return _sorted_out(path, dataset, stream)


def _sorted_out(path: Path, dataset: FileDataset, stream: BinaryIO) -> FirstLook:
    if "SOPClassUID" not in dataset:
        return FirstLook(path, "other", "a DICOM file without SOPClassUID, such as a DICOMDIR")
    sop_class = str(dataset.SOPClassUID)
    if sop_class in _SEGMENTATIONS or sop_class == STRUCTURE_SET:
        return _labels(path, dataset)
    if sop_class in _NOT_IMAGES or not dataset.get("Rows") or not dataset.get("Columns"):
        return FirstLook(path, "other", f"no image but {UID(sop_class).name}", sop_class_uid=sop_class)
    header = header_of(dataset, path)
    if header.samples != 1:
        return FirstLook(path, "other", f"a picture in colour ({header.samples} samples per pixel)")
    named = header.series_uid and header.sop_instance_uid
    problem = _pixel_problem(dataset, stream) if named else "it has no SeriesInstanceUID or no SOPInstanceUID"
    if problem:
        return FirstLook(path, "unreadable", problem)
    return FirstLook(path, "image", header=header, sop_class_uid=sop_class, series_uid=header.series_uid)


def _labels(path: Path, dataset: Dataset) -> FirstLook:
    full = read_header(path)
    own = str(full.get("SeriesInstanceUID", ""))
    found = [str(element.value) for element in full.iterall() if element.keyword == "SeriesInstanceUID"]
    frame = str(full.get("FrameOfReferenceUID", ""))
    if not frame:
        frames = [str(x.value) for x in full.iterall() if x.keyword == "ReferencedFrameOfReferenceUID"]
        frame = frames[0] if frames else ""
    return FirstLook(
        path,
        "labels",
        sop_class_uid=str(dataset.SOPClassUID),
        series_uid=own,
        referenced_series=tuple(uid for uid in dict.fromkeys(found) if uid != own),
        frame_of_reference_uid=frame,
    )


def _pixel_problem(dataset: FileDataset, stream: BinaryIO) -> str:
    """What is wrong with the pixels' length, told without reading them; empty when nothing is."""
    syntax = dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian) if dataset.file_meta else None
    bits, samples = int(dataset.get("BitsAllocated") or 0), int(dataset.get("SamplesPerPixel") or 1)
    frames = int(dataset.get("NumberOfFrames") or 1)
    promised = (int(dataset.Rows) * int(dataset.Columns) * samples * frames * bits + 7) // 8
    if syntax == DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        held = len(pydicom.dcmread(stream).get("PixelData", b""))
        return "" if held >= promised else f"its pixels should take {promised} bytes, but {held} are there"
    implicit, little = dataset.original_encoding
    return _length_problem(stream, bool(implicit), bool(little) and syntax != ExplicitVRBigEndian, promised)


def _length_problem(stream: BinaryIO, implicit: bool, little: bool, promised: int) -> str:
    order = "<" if little else ">"
    head = stream.read(8 if implicit else 12)
    if len(head) < (8 if implicit else 12):
        return "it has no pixels, or is cut off before them"
    group, element = struct.unpack(order + "HH", head[:4])
    if (group, element) not in {(0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009)}:
        return "it has no pixels"
    length = struct.unpack(order + "L", head[4:8] if implicit else head[8:12])[0]
    begin = stream.tell()
    size = stream.seek(0, 2)
    if length == _UNDEFINED:
        return _fragments_problem(stream, begin, size)
    held = min(length, size - begin)
    return "" if held >= promised else f"its pixels should take {promised} bytes, but {held} are there"


def _fragments_problem(stream: BinaryIO, begin: int, size: int) -> str:
    """Walk over the fragments of compressed pixels to the mark that ends them."""
    place, fragments = begin, 0
    while place + 8 <= size:
        stream.seek(place)
        group, element, length = struct.unpack("<HHL", stream.read(8))
        if (group, element) == _END:
            return "" if fragments > 1 else "its compressed pixels are empty"
        if (group, element) != _ITEM:
            return "its compressed pixels are damaged"
        place, fragments = place + 8 + length, fragments + 1
    return "its compressed pixels are cut off"
