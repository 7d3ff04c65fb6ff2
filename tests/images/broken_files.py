"""NIfTI files made by hand, byte by byte, so that a test can break any field without a library repairing it."""

import gzip
from pathlib import Path

import nibabel
import numpy as np

SPACING_XYZ = (1.0, 1.2, 2.5)


def voxels(dtype="i2", shape=(6, 5, 4)):
    """An array (Z, Y, X) in which every voxel is different."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def header_of(array, **fields):
    """A header for (Z, Y, X) with an sform of three distinct spacings; ``fields`` overwrite what they name."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype.newbyteorder("="))
    header.set_data_shape(array.shape[::-1])
    affine = np.diag([*SPACING_XYZ, 1.0])
    affine[:3, 3] = (-20.0, 10.0, 30.0)
    header.set_sform(affine, 1)
    header.set_qform(affine, 0)
    header["pixdim"][1:4] = SPACING_XYZ
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 1, 0, 352
    header["xyzt_units"] = 2
    for name, value in fields.items():
        if name in ("dim", "pixdim"):
            for place, number in value.items():
                header[name][place] = number
        else:
            header[name] = value
    return header


def nifti_bytes(array=None, big_endian=False, tail=b"", **fields):
    """A whole file, unpacked."""
    array = voxels() if array is None else array
    header = header_of(array, **fields)
    if big_endian:
        header = header.as_byteswapped(">")
        array = array.astype(array.dtype.newbyteorder(">"))
    return header.binaryblock + bytes(4) + array.tobytes() + tail


def nifti(path: Path, array=None, big_endian=False, tail=b"", **fields) -> Path:
    """Write it, gzipped if the name says so."""
    content = nifti_bytes(array, big_endian, tail, **fields)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path
