"""Where the voxels of a NIfTI file lie, agreed upon by all three ways in which its header can say so, and back again.

Knows nothing of voxel values. The sform holds when its code is positive, else the qform, else only the spacing is
known (nifti1.h, "methods" 3, 2 and 1). Where two of them disagree the file is refused, because readers differ in
which one they follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import data_type_codes
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from medseg.errors import ImageFileError
from medseg.images.values import is_sheared, no_orientation, sheared
from medseg.images.volume import Volume

_ZYX = [2, 1, 0, 3]
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}
_TOLERANCE = 1e-3  # of a voxel
_SPACING_TOLERANCE = 1e-2  # spacings are often rounded to two digits; a real conflict is far larger


@dataclass(frozen=True)
class Geometry:
    """The affine (z, y, x, 1) -> mm RAS+ of a file, whether its orientation is known, and what was odd."""

    affine: NDArray[np.float64]
    orientation_known: bool
    remarks: tuple[str, ...]


def geometry_of(header: nibabel.Nifti1Header, path: Path) -> Geometry:
    """Read the geometry from a header. Raises ImageFileError where it is incomplete or contradicts itself."""
    remarks: list[str] = []
    sizes = _sizes(header, path, remarks)
    qform = _qform(header, sizes, path) if int(header["qform_code"]) > 0 else None
    sform = _sform(header, path) if int(header["sform_code"]) > 0 else None
    if sform is not None:
        _require_spacing(sform, sizes, path)
        if qform is not None:
            _require_agreement(qform, sform, path)
    affine = sform if sform is not None else qform
    known = affine is not None
    if affine is None:
        affine = _centred(header, sizes)
        remarks.append(no_orientation(path, "both its codes are 0"))
    unit = int(header["xyzt_units"]) & 7
    if unit in _MM_PER_UNIT:
        affine[:3] *= _MM_PER_UNIT[unit]
        remarks.append(f"{path.name} is in {_UNIT_NAMES[unit]}; converted to millimetres.")
    return Geometry(affine[:, _ZYX], known, tuple(remarks))


def header_for(shape: tuple[int, ...], dtype: np.dtype[Any], like: Volume) -> nibabel.Nifti1Header:
    """A little-endian header for an array (Z, Y, X) or (C, Z, Y, X) on the grid of ``like``.

    A header that came from a NIfTI file keeps its matrices, codes, units and description bit by bit.
    """
    if isinstance(like.header, nibabel.Nifti1Header):
        header = like.header.as_byteswapped("<") if like.header.endianness == ">" else like.header.copy()
    else:
        header = _new_header(like)
    sizes = [*reversed(shape[-3:]), *shape[:-3]]
    if len(sizes) == 4 and sizes[3] == 1:
        sizes = sizes[:3]
    flat = int(header["dim"][0]) == 2 and sizes[2:] == [1]
    header["dim"] = [2 if flat else len(sizes), *sizes, *[1] * (7 - len(sizes))]
    header["pixdim"][4:] = 1.0
    header["datatype"] = data_type_codes.code[dtype]
    header["bitpix"] = dtype.itemsize * 8
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    for field in ("cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[field] = 0
    header["intent_name"] = b""
    header["vox_offset"] = 544 if isinstance(header, nibabel.Nifti2Header) else 352
    return header


def _new_header(like: Volume) -> nibabel.Nifti1Header:
    header = nibabel.Nifti1Header()
    header.set_data_shape(like.shape[::-1])
    header.set_xyzt_units("mm", "unknown")
    header["pixdim"][1:4] = like.spacing[::-1]
    header["pixdim"][0] = 1.0
    if like.orientation_known:
        affine = like.affine[:, _ZYX]
        header.set_qform(affine, code=1)
        header.set_sform(affine, code=1)
    return header


def _sizes(header: nibabel.Nifti1Header, path: Path, remarks: list[str]) -> NDArray[np.float64]:
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    used = min(3, int(header["dim"][0]))
    if not (np.isfinite(sizes[:used]).all() and (sizes[:used] > 0).all()):
        raise ImageFileError(
            "bad-pixdim",
            f"{path} has a voxel size of {tuple(sizes[:used].tolist())} (x, y, z); each should be a positive number.",
            "Correct the pixdim fields, or export the file again.",
        )
    if used < 3 and not (np.isfinite(sizes[2]) and sizes[2] > 0):
        remarks.append(f"{path.name} is flat and has no slice thickness; 1 mm is assumed.")
        sizes[2] = 1.0
    return sizes


def _qform(header: nibabel.Nifti1Header, sizes: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    b, c, d = (float(header[f"quatern_{letter}"]) for letter in "bcd")
    offset = [float(header[f"qoffset_{letter}"]) for letter in "xyz"]
    squared = b * b + c * c + d * d
    # A float32 quaternion of a half turn may be a rounding longer than 1; a NaN fails the comparison as well.
    if not (squared <= 1 + 1e-5 and np.isfinite(offset).all()):
        raise ImageFileError(
            "bad-qform",
            f"{path} has an impossible rotation or position in its qform: ({b:g}, {c:g}, {d:g}), {offset}.",
            "Correct the header, or set qform_code to 0 if the sform is right.",
        )
    affine = np.eye(4)
    flip = -1.0 if header["pixdim"][0] < 0 else 1.0  # qfac; nifti1.h takes 0 as 1
    affine[:3, :3] = quat2mat([np.sqrt(max(0.0, 1.0 - squared)), b, c, d]) * sizes * [1.0, 1.0, flip]
    affine[:3, 3] = offset
    return affine


def _sform(header: nibabel.Nifti1Header, path: Path) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3] = [header[f"srow_{letter}"] for letter in "xyz"]
    if not np.isfinite(affine).all():
        raise ImageFileError(
            "sform-nan",
            f"{path} has an sform with numbers that are not finite.",
            "Correct the header, or set sform_code to 0 if the qform is right.",
        )
    if int(header["dim"][0]) == 2 and not affine[:3, 2].any():
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-30)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise ImageFileError(
            "singular-affine",
            f"{path} has an sform that puts the whole image into one plane.",
            "Correct the header, or export the file again.",
        )
    if is_sheared(affine[:3, :3]):
        raise sheared(path)
    return affine


def _require_spacing(sform: NDArray[np.float64], sizes: NDArray[np.float64], path: Path) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if (np.abs(lengths - sizes) > _SPACING_TOLERANCE * np.minimum(lengths, sizes)).any():
        raise ImageFileError(
            "pixdim-affine",
            f"{path} gives the voxel size twice: {_text(sizes)} in pixdim but {_text(lengths)} in the sform (x, y, z).",
            "Correct whichever is wrong; other tools may have read the wrong one.",
        )


def _require_agreement(qform: NDArray[np.float64], sform: NDArray[np.float64], path: Path) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    # Steps from voxel to voxel, each against its own length: a float32 quaternion near a half turn is off by up to
    # 7e-4, so files of careful writers would be refused if the corners of the grid were compared instead.
    turned = np.linalg.norm(qform[:3, :3] - sform[:3, :3], axis=0) > _TOLERANCE * lengths
    moved_mm = float(np.linalg.norm(qform[:3, 3] - sform[:3, 3]))
    if turned.any() or moved_mm > max(_TOLERANCE * lengths.min(), _TOLERANCE):
        raise ImageFileError(
            "qform-sform",
            f"{path} says twice where it lies, and differently: qform and sform place its first voxel "
            f"{moved_mm:.3g} mm apart" + (" and turn or scale its axes differently." if turned.any() else "."),
            "Find out which is right, and set the code of the other to 0.",
        )


def _centred(header: nibabel.Nifti1Header, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The usual guess where nothing is known, the same as nibabel's: x runs to the left, the centre is at 0."""
    counts = np.array([int(n) for n in header["dim"][1:4]])
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((counts - 1) / 2)
    return affine


def _text(sizes: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{size:g}" for size in sizes) + ") mm"
