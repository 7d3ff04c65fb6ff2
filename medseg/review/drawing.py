"""What a reader drew in the browser, as labels that may become a correction.

Knows nothing of pages. A drawing comes as a gzip file of NIfTI labels on the grid that the browser was given; it is
taken only if it lies there to the voxel and holds structures that the table knows.
"""

from __future__ import annotations

import tempfile
import zlib
from math import prod
from pathlib import Path

import numpy as np

from medseg.arrays import Labels
from medseg.errors import DatasetError, GeometryError
from medseg.images.formats import read_labels
from medseg.images.volume import Volume, require_same_grid
from medseg.review.cache import OpenCase
from medseg.review.case import Finding

_HEADER = 4096
"""Bytes that a NIfTI file may have beside its voxels."""
_GZIP = 31
"""zlib's word for a gzip header."""


def can_draw(one: OpenCase, finding: Finding) -> bool:
    """Whether the browser has every voxel, and a byte holds every label index."""
    return one.record.stride == (1, 1, 1) and len(finding.table.known_values) <= 256


def read_drawing(packed: bytes, one: OpenCase, finding: Finding) -> Labels:
    """Label indices (Z, Y, X) of the page.

    Raises DatasetError for bytes that are no such file and for unknown structures, GeometryError for another grid.
    """
    if not can_draw(one, finding):
        raise GeometryError(f"Case '{one.case.name}' is shown in fewer voxels than it has, so drawings do not fit it.")
    content = _unpacked(packed, prod(one.shape) + _HEADER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawing.nii"
        path.write_bytes(content)
        drawn = read_labels(path)
    page = Volume(np.broadcast_to(np.float32(0), (1, *one.shape)), one.affine)
    require_same_grid(page, drawn, f"Case '{one.case.name}'", "The drawing")
    indices = drawn.array
    if int(indices.max()) >= len(finding.table.known_values):
        raise DatasetError(f"The drawing holds structure {int(indices.max())}, which '{finding.name}' does not know.")
    return np.ascontiguousarray(indices, np.uint8)


def _unpacked(packed: bytes, most: int) -> bytes:
    """At most so many bytes, whatever a small file claims to hold."""
    reader = zlib.decompressobj(_GZIP)
    try:
        content = reader.decompress(packed, most)
    except zlib.error as error:
        raise DatasetError(f"The drawing is damaged: {error}.") from None
    if not reader.eof:
        raise DatasetError(f"The drawing is cut off, or holds more than the {most} bytes that the case has.")
    return content
