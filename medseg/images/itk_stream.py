"""The bytes behind a MetaImage or NRRD header, checked to the last one before ITK is trusted with them.

Knows nothing of geometry. ITK returns voxels from a compressed MetaImage whose checksum fails, and stops reading a
gzipped NRRD before its checksum; so the stream is unpacked here once, to nowhere. Formats:
https://itk.org/Wiki/ITK/MetaIO/Documentation and https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import gzip
import zlib
from io import BufferedIOBase
from pathlib import Path

from medseg.errors import ImageFileError

_LARGEST_HEADER = 1 << 20
_REMEDY = "Copy or export it again."


def require_whole(path: Path, voxel_bytes: int) -> None:
    """Raise ImageFileError unless the file holds exactly the bytes that its header promises, undamaged."""
    with path.open("rb") as stream:
        fields = _fields(stream, path)
        _require_attached(fields, path)
        if fields.get("compresseddata", "").lower() == "true":
            found = _count_zlib(stream, path)
        elif fields.get("encoding", "") in ("gz", "gzip"):
            found = _count_gzip(stream, path)
        elif fields.get("encoding", "raw") == "raw" and fields.get("binarydata", "true").lower() == "true":
            found = path.stat().st_size - stream.tell()
        else:
            return  # text and bzip2 encodings: ITK reads and checks them value by value
    if found < voxel_bytes:
        raise ImageFileError(
            "size-lie", f"{path} should hold {voxel_bytes} bytes of voxels by its header but has {found}.", _REMEDY
        )


def tells_orientation(path: Path) -> bool:
    """Whether the header says how the axes lie in the patient; where it is silent ITK takes LPS for granted."""
    with path.open("rb") as stream:
        fields = _fields(stream, path)
    if path.suffix.lower() == ".mha":
        return bool({"transformmatrix", "rotation", "orientation"} & set(fields))
    return "space" in fields and "space directions" in fields


def _fields(stream: BufferedIOBase, path: Path) -> dict[str, str]:
    """Header lines "key = value" (MetaImage) or "key: value" (NRRD), keys in small letters; stops before the voxels."""
    fields: dict[str, str] = {}
    separator = "=" if path.suffix.lower() == ".mha" else ":"
    while (line := stream.readline(_LARGEST_HEADER)) and stream.tell() < _LARGEST_HEADER:
        text = line.decode("latin-1").strip()
        key, _, value = text.partition(separator)
        fields[key.strip().lower()] = value.lstrip("=").strip()
        if not text or key.strip() == "ElementDataFile":
            return fields
    raise ImageFileError("bad-magic", f"{path} has no end to its header.", _REMEDY)


def _require_attached(fields: dict[str, str], path: Path) -> None:
    elsewhere = fields.get("elementdatafile", "LOCAL"), fields.get("data file", fields.get("datafile", "LOCAL"))
    skips = [fields.get(key, "0") for key in ("headersize", "line skip", "byte skip", "lineskip", "byteskip")]
    if elsewhere != ("LOCAL", "LOCAL") or any(skip != "0" for skip in skips):
        raise ImageFileError(
            "detached-data",
            f"{path} should hold its own voxels, right after its header, but points elsewhere.",
            "Save it as one file, for example as .nii.gz.",
        )


def _count_zlib(stream: BufferedIOBase, path: Path) -> int:
    unpacker, count = zlib.decompressobj(), 0
    try:
        while not unpacker.eof and (chunk := stream.read(1 << 16)):
            count += len(unpacker.decompress(chunk))
    except zlib.error as error:
        raise ImageFileError("corrupt-gzip", f"{path} is damaged: {error}.", _REMEDY) from None
    if not unpacker.eof:
        raise ImageFileError("truncated-gzip", f"{path} is cut off before its end.", _REMEDY)
    return count


def _count_gzip(stream: BufferedIOBase, path: Path) -> int:
    count = 0
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as unpacked:
            while chunk := unpacked.read(1 << 20):
                count += len(chunk)
    except EOFError:
        raise ImageFileError("truncated-gzip", f"{path} is cut off before its end.", _REMEDY) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageFileError("corrupt-gzip", f"{path} is damaged: {error}.", _REMEDY) from None
    return count
