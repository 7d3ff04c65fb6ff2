"""NIfTI-1 and NIfTI-2 files, ``.nii`` and ``.nii.gz``, read once, to their last byte, with every doubt spoken out.

Knows nothing of labels' names. nibabel takes the header's fields apart; what readers commonly swallow (cut files,
flipped bits, lying headers) is checked here, before memory is asked for. The meaning of the fields is that of nifti1.h
and nifti2.h, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageFileError, MedsegError
from medseg.files import written_whole
from medseg.images import values
from medseg.images.nifti_geometry import Geometry, geometry_of, header_for
from medseg.images.nifti_stream import LARGEST_EXPANSION, deterministic_stream, drain, is_gzipped, open_stream
from medseg.images.volume import Volume

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OTHER_TYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "RGB colours",
    1536: "128-bit floats",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "RGBA colours",
}
_CHUNK = 1 << 21
"""Voxels converted at once: 16 MB as float64, so that a volume is never in memory twice."""


@dataclass(frozen=True)
class _Head:
    """What a header says once it has been checked."""

    header: nibabel.Nifti1Header
    dtype: np.dtype[Any]
    shape: tuple[int, int, int, int]
    """Channels, z, y, x."""
    scaling: tuple[float, float] | None
    """Slope and intercept, or None where the stored values are meant as they are."""
    geometry: Geometry


def read_image(path: Path) -> Volume:
    """The file as float32 (C, Z, Y, X). Raises ImageFileError."""
    _require_one_file(path)
    with open_stream(path) as stream:
        head = _read_head(stream, path)
        image = np.empty(head.shape, dtype=np.float32)
        flat, rounded = image.reshape(-1), False
        for start, chunk in _chunks(stream, head, path):
            flat[start : start + chunk.size] = values.to_image(chunk, path)
            rounded = rounded or values.is_rounded(chunk)
        remarks = _after_the_voxels(stream, path)
    if rounded:
        remarks += (f"{path.name} holds integers beyond 2**24, which float32 rounds.",)
    return _volume(image, head, remarks)


def peek_image(path: Path) -> Volume:
    """What ``read_image`` gives, by the header alone: its voxels are zeros without memory. Raises ImageFileError."""
    _require_one_file(path)
    with open_stream(path) as stream:
        head = _read_head(stream, path)
    return _volume(np.broadcast_to(np.float32(0), head.shape), head, ())


def read_labels(path: Path) -> Volume:
    """The file as integers (Z, Y, X). Raises ImageFileError."""
    _require_one_file(path)
    with open_stream(path) as stream:
        head = _read_head(stream, path)
        if head.shape[0] > 1:
            raise ImageFileError(
                "four-dimensional",
                f"{path} holds {head.shape[0]} volumes, but labels should be one volume of whole numbers.",
                "Split it, or merge overlapping structures into one label file.",
            )
        whole = head.scaling is None and np.issubdtype(head.dtype, np.integer)
        labels = np.empty(head.shape[1:], dtype=head.dtype.newbyteorder("=") if whole else np.int64)
        flat = labels.reshape(-1)
        for start, chunk in _chunks(stream, head, path):
            flat[start : start + chunk.size] = values.to_labels(chunk, path)
        remarks = _after_the_voxels(stream, path)
    return _volume(labels if whole else values.narrowed(labels), head, remarks)


def write(path: Path, array: NDArray[Any], like: Volume) -> None:
    """Write (Z, Y, X) or (C, Z, Y, X) as it is; ``medseg.images.formats`` has checked it."""
    for sibling in _siblings(path):
        raise MedsegError(f"{path} can't be written beside {sibling.name}: readers confuse the two. Remove that one.")
    header = header_for(array.shape, array.dtype, like)
    with written_whole(path) as temporary, deterministic_stream(temporary) as stream:
        stream.write(header.binaryblock)
        stream.write(bytes(4))  # no extensions follow
        for plane in array.reshape(-1, *array.shape[-2:]):
            stream.write(np.ascontiguousarray(plane, dtype=array.dtype.newbyteorder("<")).tobytes())


def _volume(array: NDArray[Any], head: _Head, remarks: tuple[str, ...]) -> Volume:
    geometry = head.geometry
    return Volume(array, geometry.affine, head.header, geometry.orientation_known, geometry.remarks + remarks)


def _siblings(path: Path) -> list[Path]:
    name = path.name
    other = name[:-3] if is_gzipped(path) else name + ".gz"
    return [path.with_name(other)] if path.with_name(other).exists() else []


def _require_one_file(path: Path) -> None:
    for sibling in _siblings(path):
        raise ImageFileError(
            "ambiguous-sibling",
            f"{path} lies beside {sibling.name}, and some readers open the one when asked for the other.",
            "Keep only the right one of the two.",
        )


def _read_head(stream: BufferedIOBase, path: Path) -> _Head:
    header = _parse(stream, path)
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        raise _size_lie(path, f"claims to have {dimensions} dimensions, not 2 to 7")
    sizes = [int(size) for size in header["dim"][1 : dimensions + 1]]
    values.require_dimensions(tuple(sizes), path)
    x, y, z, *further = [*sizes, 1, 1][: max(3, dimensions)]
    if sum(size > 1 for size in further) > 1:
        raise ImageFileError(
            "four-dimensional",
            f"{path} has {dimensions} dimensions ({' x '.join(map(str, sizes))}); three and one for channels are read.",
            "Split it into one file per channel.",
        )
    code = int(header["datatype"])
    if code not in _TYPES:
        raise values.unsupported_type(path, _OTHER_TYPES.get(code, f"voxels of an unknown type ({code})"))
    dtype = np.dtype(_TYPES[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != dtype.itemsize * 8:
        raise _size_lie(path, f"claims {int(header['bitpix'])} bits per voxel, but its type {dtype.name} has not")
    shape = (max([1, *further]), z, y, x)
    _skip_to_voxels(stream, header, int(np.prod(shape)) * dtype.itemsize, path)
    return _Head(header, dtype, shape, _scaling(header, path), geometry_of(header, path))


def _parse(stream: BufferedIOBase, path: Path) -> nibabel.Nifti1Header:
    """Take the header apart without nibabel's own checks, which repair silently or only log."""
    start = stream.read(4)
    for size, kind, magic in ((348, nibabel.Nifti1Header, b"n+1\0"), (540, nibabel.Nifti2Header, b"n+2\0")):
        for endianness in "<>":
            if start != np.array(size, dtype=f"{endianness}i4").tobytes():
                continue
            block = start + stream.read(size - 4)
            found = block[344:348] if size == 348 else block[4:8]
            if len(block) == size and found == magic:
                return kind(block, endianness=endianness, check=False)
            raise ImageFileError(
                "bad-magic",
                f"{path} is not a single-file NIfTI image: its signature is {found!r} instead of {magic!r}.",
                "Convert Analyze or .hdr/.img pairs to .nii.gz with a tool that knows their orientation.",
            )
    raise ImageFileError(
        "bad-magic", f"{path} is not a NIfTI image, whatever its name says.", "Correct the name, or export it again."
    )


def _skip_to_voxels(stream: BufferedIOBase, header: nibabel.Nifti1Header, voxel_bytes: int, path: Path) -> None:
    """Compare the promised size with the file's before memory is asked for, and go to the first voxel."""
    smallest = int(header["sizeof_hdr"]) + 4
    offset = float(header["vox_offset"])
    if not (offset >= smallest and offset == int(offset)):
        raise _size_lie(path, f"claims that its voxels start at byte {offset:g}, but the header takes {smallest}")
    promised, size = int(offset) + voxel_bytes, path.stat().st_size
    if promised > size * (LARGEST_EXPANSION if is_gzipped(path) else 1):
        raise _size_lie(path, f"should hold {promised} bytes by its header, but is far shorter ({size} on the disk)")
    left = int(offset) - (smallest - 4)
    while left > 0:
        skipped = len(stream.read(min(left, 1 << 20)))
        if not skipped:
            raise _size_lie(path, "ends before its first voxel")
        left -= skipped


def _scaling(header: nibabel.Nifti1Header, path: Path) -> tuple[float, float] | None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise ImageFileError(
            "bad-scaling",
            f"{path} should have a finite slope and intercept but has {slope:g} and {intercept:g}.",
            "Correct scl_slope and scl_inter; 1 and 0 mean that the voxels are stored as they are.",
        )
    return None if slope == 0 or (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _chunks(stream: BufferedIOBase, head: _Head, path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """Scaled voxels in file order, a part at a time, each with the number of voxels before it."""
    count = int(np.prod(head.shape))
    for start in range(0, count, _CHUNK):
        wanted = min(_CHUNK, count - start) * head.dtype.itemsize
        block = stream.read(wanted)
        while len(block) < wanted and (more := stream.read(wanted - len(block))):
            block += more
        if len(block) < wanted:
            held = start * head.dtype.itemsize + len(block)
            raise _size_lie(
                path, f"should hold {count * head.dtype.itemsize} bytes of voxels by its header but has {held}"
            )
        chunk = np.frombuffer(block, dtype=head.dtype)
        if head.scaling is not None:
            values.require_finite(chunk, path)
            chunk = chunk.astype(np.float64) * head.scaling[0] + head.scaling[1]
        yield start, chunk


def _after_the_voxels(stream: BufferedIOBase, path: Path) -> tuple[str, ...]:
    extra = drain(stream)
    return (f"{path.name} has {extra} bytes after its last voxel, which were ignored.",) if extra else ()


def _size_lie(path: Path, what: str) -> ImageFileError:
    return ImageFileError("size-lie", f"{path} {what}.", "It is cut off or its header is damaged; copy it again.")
