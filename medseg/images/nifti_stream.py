"""The bytes of a NIfTI file, plain or gzipped: read to the last one, written the same way every time.

Knows nothing of what the bytes mean. A gzip stream ends with a checksum and a length (RFC 1952); both are only looked
at by a reader that goes to the very end, so that is what ``drain`` is for.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from medseg.errors import ImageFileError

# Deflate can't expand its input more than 1032 times, so a header that promises more than this is lying.
LARGEST_EXPANSION = 1040
_REMEDY = "Copy or download it again from its source."


def is_gzipped(path: Path) -> bool:
    """Whether the name says that the file is gzipped."""
    return path.name.lower().endswith(".gz")


@contextmanager
def open_stream(path: Path) -> Iterator[BufferedIOBase]:
    """Give the (unpacked) bytes of a file; every kind of damage met inside the block becomes an ImageFileError."""
    try:
        with gzip.open(path, "rb") if is_gzipped(path) else path.open("rb") as stream:
            try:
                yield stream
            except ImageFileError:
                # A refused header may itself be the damage: then the checksum at the end says so more plainly.
                drain(stream)
                raise
    except EOFError:
        raise ImageFileError("truncated-gzip", f"{path} is cut off before its end.", _REMEDY) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ImageFileError("corrupt-gzip", f"{path} is damaged: {error}.", _REMEDY) from None
    except OSError as error:
        raise ImageFileError(
            "unreadable-file", f"{path} can't be read: {error.strerror or error}.", "Check the disk and its rights."
        ) from None
    except MemoryError:
        raise ImageFileError(
            "too-large", f"{path} does not fit into memory.", "Crop it, or use a larger machine."
        ) from None


def drain(stream: BufferedIOBase) -> int:
    """Read and forget what is left, and return how many bytes that was; the checksum is verified on the way."""
    count = 0
    while chunk := stream.read(1 << 20):
        count += len(chunk)
    return count


@contextmanager
def deterministic_stream(path: Path) -> Iterator[BufferedIOBase]:
    """A file to write to, gzipped if its name says so, without a date or a name inside: same bytes for same content."""
    with path.open("wb") as raw:
        if not is_gzipped(path):
            yield raw
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            yield packed
