"""The torture set: messy folders as hospitals have them, each with what should become of it.

Every voxel tells its own place (``tiny_dicom``), so a reader is judged by its voxels alone, whatever their order: each
has to lie where the header of its slice puts it, and no slice may be absent. A mess is a function of the slices of a
series; messes are put one after another, so that pairs of them are made of the same parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from tiny_dicom import coded_voxels, make_series, save, set_pixels, to_enhanced, uid

Slices = list[FileDataset]
Mess = Callable[[Slices], Slices]
OBLIQUE = (0.96, 0.28, 0.0, -0.168, 0.576, 0.8)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
PADDED = (-1000.0, -3024.0)
"""Air, and the padding value of the set as it is after rescaling."""


@dataclass(frozen=True)
class Messy:
    """One folder: how it is written, and the verdicts of the series that should be accepted and refused."""

    write: Callable[[Path], Slices]
    """Writes it, and gives the slices that are in it."""
    accepted: tuple[str, ...]
    refused: tuple[str, ...]


# ----------------------------------------------------------------------------- how a reader is judged


def misreading(array: NDArray[Any], affine: NDArray[np.float64], slices: Slices) -> str:
    """What is wrong with a volume that a reader gave (axes in any order, affine of them to RAS+); empty if nothing."""
    codes = np.rint(array + 1024.0).astype(np.int64)
    padded = np.isin(array, PADDED)
    frames = {one.code: one for one in slices}
    stacks = np.unique(codes[~padded] // 1100).tolist()
    if np.abs(array + 1024.0 - codes).max() > 0.1 or not set(stacks) <= set(frames):
        return "values that no voxel had"
    if len({stack // 10 for stack in stacks}) > 1:
        return "slices of several volumes in one"
    if min(array.shape) == 1 or "ImagePositionPatient" not in frames[stacks[0]]:
        return "a place that was made up"
    index = np.moveaxis(np.indices(array.shape), 0, -1).reshape(-1, 3)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    for stack in stacks:
        mine = ((codes // 1100 == stack) & ~padded).ravel()
        y, x = np.divmod(codes.ravel()[mine] % 1100, 32)
        error = np.linalg.norm(places[mine] - _world(frames[stack], y, x), axis=1).max()
        if error > 0.1:
            return f"voxels up to {error:.1f} mm from where they were measured"
    missing = {code for code in frames if code // 10 == stacks[0] // 10} - set(stacks)
    return f"{len(missing)} slices left out" if missing else ""


def _world(one: Dataset, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.float64]:
    """RAS+ mm of voxels of a slice: the equation of PS3.3 C.7.6.2.1.1."""
    along_row, along_column = np.array(one.ImageOrientationPatient, dtype=float).reshape(2, 3)
    rows, columns = map(float, one.PixelSpacing)
    place = np.array(one.ImagePositionPatient, dtype=float) + np.outer(x * columns, along_row)
    return (place + np.outer(y * rows, along_column)) * [-1, -1, 1]


# ----------------------------------------------------------------------------- messes


def reversed_numbers(slices: Slices) -> Slices:
    for number, one in enumerate(reversed(slices), start=1):
        one.InstanceNumber = number
    return slices


def without(*places: int) -> Mess:
    return lambda slices: [one for place, one in enumerate(slices) if place not in places]


def repeated(slices: Slices) -> Slices:
    """One slice is there again, under another UID."""
    again = copy.deepcopy(slices[3])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = uid("again")
    return [*slices, again]


def repeated_otherwise(slices: Slices) -> Slices:
    """The same, with other voxels."""
    slices = repeated(slices)
    set_pixels(slices[-1], slices[-1].pixel_array[::-1])
    return slices


def same_file_twice(slices: Slices) -> Slices:
    return [*slices, copy.deepcopy(slices[2])]


def same_uid_otherwise(slices: Slices) -> Slices:
    """Two slices that claim to be one."""
    slices[5].SOPInstanceUID = slices[2].SOPInstanceUID
    return slices


def phases(traits: Sequence[dict[str, Any]], missing: Sequence[int] = ()) -> Mess:
    """As many volumes as there are traits, by which they differ; the second lacks some slices."""

    def mess(slices: Slices) -> Slices:
        result = []
        for number, trait in enumerate(traits):
            for place, one in enumerate(slices):
                if number == 1 and place in missing:
                    continue
                other = copy.deepcopy(one)
                other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = uid("phase", number, one.code)
                other.code = one.code + 10 * number
                set_pixels(other, one.pixel_array + np.uint16(11000 * number))
                for key, value in trait.items():
                    setattr(other, key, value)
                result.append(other)
        return result

    return mess


def overlapping_acquisitions(slices: Slices) -> Slices:
    """Two table positions whose ends overlap, with other noise."""
    second = phases([{}, {"AcquisitionNumber": 2}])(slices[4:])[4:]
    return [*slices[:6], *second]


def localizer(slices: Slices) -> Slices:
    """Three planes in three directions in front of the series."""
    planes = []
    for number, orientation in enumerate((OBLIQUE, CORONAL, SAGITTAL)):
        voxels = coded_voxels()[:1] + np.uint16(22000 + 1100 * number)
        (one,) = make_series(voxels, orientation, name="series", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid("localizer", number)
        one.code, one.InstanceNumber = 21 + number, number + 1
        planes.append(one)
    for number, one in enumerate(slices, start=4):
        one.InstanceNumber = number
    return [*planes, *slices]


def moved(shift_mm: Callable[[int], tuple[float, float, float]]) -> Mess:
    def mess(slices: Slices) -> Slices:
        for place, one in enumerate(slices):
            position = np.add(np.array(one.ImagePositionPatient, dtype=float), shift_mm(place))
            one.ImagePositionPatient = [f"{value:.6f}" for value in position]
        return slices

    return mess


tilted = moved(lambda z: (0.0, 2.5 * np.tan(np.radians(15)) * z, 0.0))
mixed_spacing = moved(lambda z: (0.0, 0.0, 2.5 * max(0, z - 4)))
shifted_sideways = moved(lambda z: ((1.4, -2.1, 0.7, 2.8)[z % 4], 0.0, 0.0))
rounded = moved(lambda z: (0.0, 0.0, 0.04 * (-1) ** z))


def jitter(slices: Slices) -> Slices:
    for place, one in enumerate(slices):
        orientation = np.array(one.ImageOrientationPatient, dtype=float) + 1e-6 * (place % 3)
        one.ImageOrientationPatient = [f"{value:.8f}" for value in orientation]
    return slices


def without_place(slices: Slices) -> Slices:
    for one in slices:
        del one.ImagePositionPatient
        del one.ImageOrientationPatient
    return slices


def setting(**attributes: Any) -> Mess:
    def mess(slices: Slices) -> Slices:
        for one in slices:
            for key, value in attributes.items():
                setattr(one, key, value)
        return slices

    return mess


def two_sizes(slices: Slices) -> Slices:
    """The last slices are narrower."""
    narrow = coded_voxels((8, 33, 28)) + np.uint16(11000)
    for place in range(5, 8):
        set_pixels(slices[place], narrow[place])
        slices[place].code += 10
    return slices


def own_slopes(slices: Slices) -> Slices:
    """PET: every slice has a slope of its own."""
    for place, one in enumerate(slices):
        slope = 0.5 if place % 2 else 0.25
        set_pixels(one, (one.pixel_array.astype(np.int64) / slope).astype(np.uint16))
        one.RescaleSlope, one.Modality = slope, "PT"
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
    return slices


def padding(slices: Slices) -> Slices:
    """The corners hold a padding value, which the header tells as an unsigned number."""
    for one in slices:
        pixels = one.pixel_array.astype(np.int16)
        pixels[:2, :2] = pixels[-1, -3:] = -2000
        set_pixels(one, pixels)
        one.add_new("PixelPaddingValue", "US", 65536 - 2000)
    return slices


def other_series(slices: Slices, **attributes: Any) -> Slices:
    """A second series in the same folder."""
    second = make_series(coded_voxels() + np.uint16(11000), name="second", **attributes)
    for one in second:
        one.code += 10
    return [*slices, *second]


def compressed(syntax: str) -> Mess:
    def mess(slices: Slices) -> Slices:
        for one in slices:
            one.compress(syntax, generate_instance_uid=False)
        return slices

    return mess


def big_endian(slices: Slices) -> Slices:
    for one in slices:
        one.PixelData = one.pixel_array.astype(">i2" if one.PixelRepresentation else ">u2").tobytes()
        one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        one.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
    return slices


def in_syntax(syntax: str) -> Mess:
    def mess(slices: Slices) -> Slices:
        for one in slices:
            one.file_meta.TransferSyntaxUID = syntax
        return slices

    return mess


# ----------------------------------------------------------------------------- what is written


def whole(slices: Slices, folder: Path) -> None:
    save(slices, folder)


def bare(slices: Slices, folder: Path) -> None:
    """Neither preamble nor file meta information."""
    for number, one in enumerate(slices):
        plain = Dataset()
        plain.update(one)
        plain.save_as(folder / f"{number}.raw", implicit_vr=True, little_endian=True)


def with_junk(slices: Slices, folder: Path) -> None:
    save(slices, folder)
    (folder / "notes.txt").write_text("nothing")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (folder / "cut.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00")
    (folder / "random").write_bytes(b"\x08\x00" + bytes(range(256)) * 4)


def in_odd_places(slices: Slices, folder: Path) -> None:
    for number, one in enumerate(slices):
        save([one], folder / f"Überblick {number % 2}" / "日本", stem=f"ä {number} ")


def cut(slices: Slices, folder: Path) -> None:
    """The middle file was copied by half."""
    paths = save(slices, folder)
    content = paths[4].read_bytes()
    paths[4].write_bytes(content[: len(content) - 100])
    del slices[4]


def cut_copy(slices: Slices, folder: Path) -> None:
    """The middle file is there twice, once cut."""
    content = save(slices, folder)[4].read_bytes()
    (folder / "cut").write_bytes(content[: len(content) - 100])


def cut_header(slices: Slices, folder: Path) -> None:
    paths = save(slices, folder)
    paths[4].write_bytes(paths[4].read_bytes()[:700])
    del slices[4]


def enhanced(order: Sequence[int] | None, slices: Slices, folder: Path, then: Mess | None = None) -> None:
    """All slices as frames of one file."""
    file = to_enhanced(slices if order is None else [slices[place] for place in order])
    save([file] if then is None else then([file]), folder)


def cut_enhanced(slices: Slices, folder: Path) -> None:
    (path,) = save([to_enhanced(slices)], folder)
    path.write_bytes(path.read_bytes()[:-500])


def broken_stream(slices: Slices, folder: Path) -> None:
    """Compressed pixels of the right form with noise inside."""
    paths = save(compressed(JPEG2000Lossless)(slices), folder)
    content = bytearray(paths[4].read_bytes())
    content[-140:-20] = bytes(120)
    paths[4].write_bytes(content)


def odd_number(slices: Slices, folder: Path) -> None:
    """A position with a decimal comma."""
    path = save(slices, folder)[4]
    position = "\\".join(map(str, slices[4].ImagePositionPatient)).encode()
    path.write_bytes(path.read_bytes().replace(position, position.replace(b".", b",").replace(b"-9", b"-,")))
    del slices[4]


def messy(
    *messes: Mess,
    accepted: tuple[str, ...] = (),
    refused: tuple[str, ...] = (),
    write: Callable[[Slices, Path], None] = whole,
    **series: Any,
) -> Messy:
    def write_all(folder: Path) -> Slices:
        slices = make_series(**series)
        for mess in messes:
            slices = mess(slices)
        folder.mkdir(parents=True, exist_ok=True)
        write(slices, folder)
        return slices

    return Messy(write_all, accepted, refused)


_OK = ("regular",)
_SHUFFLED = (3, 0, 7, 5, 1, 6, 2, 4)
_TWO = [{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}]
_SAME = [{}, {}]

CASES: dict[str, Messy] = {
    "plain": messy(accepted=_OK),
    "InstanceNumber reversed": messy(reversed_numbers, accepted=_OK),
    "SliceThickness 5 at 2.5 mm": messy(setting(SliceThickness=5, SpacingBetweenSlices=5), accepted=_OK),
    "oblique": messy(orientation=OBLIQUE, accepted=_OK),
    "coronal": messy(orientation=CORONAL, accepted=_OK),
    "sagittal": messy(orientation=SAGITTAL, accepted=_OK),
    "positions rounded": messy(rounded, accepted=_OK),
    "junk files": messy(write=with_junk, accepted=_OK),
    "unicode, nested folders": messy(write=in_odd_places, accepted=_OK),
    "middle slice missing": messy(without(3), refused=("gap",)),
    "two slices missing": messy(without(2, 5), refused=("gap",)),
    "end slices missing": messy(without(0, 7), accepted=_OK),
    "slice twice, new UID": messy(repeated, accepted=("duplicate_resolved",)),
    "file twice": messy(same_file_twice, accepted=("duplicate_resolved",)),
    "slice twice, other voxels": messy(repeated_otherwise, refused=("conflict",)),
    "one UID for two slices": messy(same_uid_otherwise, refused=("conflict",)),
    "two acquisitions": messy(phases(_TWO), accepted=_OK * 2),
    "two temporal positions": messy(
        phases([{"TemporalPositionIdentifier": n} for n in (1, 2)]), accepted=_OK * 2
    ),
    "two echoes": messy(phases([{"EchoTime": t} for t in ("4.6", "92")]), accepted=_OK * 2),
    "magnitude and phase": messy(
        phases([{"ImageType": ["ORIGINAL", "PRIMARY", kind]} for kind in ("M", "P")]), accepted=_OK * 2
    ),
    "three triggers": messy(phases([{"TriggerTime": t} for t in (0, 40, 80)]), accepted=_OK * 3),
    "two phases, nothing tells them apart": messy(phases(_SAME), refused=("conflict",)),
    "two overlapping acquisitions": messy(overlapping_acquisitions, refused=("conflict",)),
    "localizer in the series": messy(localizer, accepted=_OK, refused=("too_few",) * 3),
    "gantry tilt 15 degrees": messy(tilted, refused=("tilted",)),
    "spacing 2.5, then 5 mm": messy(mixed_spacing, refused=("variable_spacing",)),
    "slices shifted sideways": messy(shifted_sideways, refused=("variable_spacing",)),
    "orientation differs by 1e-6": messy(jitter, accepted=("iop_snapped",)),
    "no position": messy(without_place, refused=("no_geometry",)),
    "PixelSpacing 0": messy(setting(PixelSpacing=[0, 0]), refused=("no_geometry",)),
    "X-ray picture": messy(
        without_place,
        setting(SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX"),
        refused=("no_geometry",),
    ),
    "two matrix sizes": messy(two_sizes, accepted=_OK * 2),
    "single slice": messy(without(*range(1, 8)), refused=("too_few",)),
    "file cut off": messy(write=cut, refused=("gap",)),
    "file cut in its header": messy(write=cut_header, refused=("gap",)),
    "position with decimal comma": messy(write=odd_number, refused=("gap",)),
    "neither preamble nor meta": messy(write=bare, accepted=_OK),
    "MONOCHROME1": messy(setting(PhotometricInterpretation="MONOCHROME1"), accepted=_OK),
    "slope per slice (PET)": messy(own_slopes, accepted=_OK),
    "padding": messy(padding, accepted=_OK),
    "JPEG 2000": messy(compressed(JPEG2000Lossless), accepted=_OK),
    "JPEG-LS": messy(compressed(JPEGLSLossless), accepted=_OK),
    "RLE": messy(compressed(RLELossless), accepted=_OK),
    "deflated": messy(in_syntax(DeflatedExplicitVRLittleEndian), accepted=_OK),
    "big endian": messy(big_endian, accepted=_OK),
    "implicit VR": messy(in_syntax(ImplicitVRLittleEndian), accepted=_OK),
    "JPEG 2000 with noise inside": messy(write=broken_stream, accepted=(), refused=("undecodable",)),
    "secondary capture with positions": messy(
        setting(SOPClassUID=SecondaryCaptureImageStorage, Modality="MR"), accepted=_OK
    ),
    "two series in a folder": messy(other_series, accepted=_OK * 2),
    "two studies, same descriptions": messy(partial(other_series, StudyInstanceUID=uid("other")), accepted=_OK * 2),
    "enhanced": messy(write=partial(enhanced, None), accepted=_OK),
    "enhanced, frames shuffled": messy(write=partial(enhanced, _SHUFFLED), accepted=_OK),
    # Pairs
    "two acquisitions, one lacks a slice": messy(phases(_TWO, missing=(3,)), accepted=_OK, refused=("gap",)),
    "two acquisitions, one is shorter": messy(phases(_TWO, missing=(6, 7)), accepted=_OK * 2),
    "two acquisitions, reversed numbers": messy(phases(_TWO), reversed_numbers, accepted=_OK * 2),
    "two acquisitions, orientation differs by 1e-6": messy(jitter, phases(_TWO), accepted=("iop_snapped",) * 2),
    "two acquisitions, slice twice": messy(phases(_TWO), repeated, accepted=("duplicate_resolved", "regular")),
    "two acquisitions, tilted": messy(tilted, phases(_TWO), refused=("tilted",) * 2),
    "two acquisitions of two echoes": messy(
        phases([{"AcquisitionNumber": a, "EchoTime": t} for a in (1, 2) for t in (5, 90)]), accepted=_OK * 4
    ),
    "localizer, slice missing": messy(without(3), localizer, accepted=(), refused=("gap", *("too_few",) * 3)),
    "localizer, slice twice": messy(
        repeated, localizer, accepted=("duplicate_resolved",), refused=("too_few",) * 3
    ),
    "localizer, two acquisitions": messy(phases(_TWO), localizer, accepted=_OK * 2, refused=("too_few",) * 3),
    "slice missing, slice twice": messy(without(5), repeated, refused=("gap",)),
    "slice missing, tilted": messy(tilted, without(3), refused=("gap",)),
    "slice missing, orientation differs by 1e-6": messy(jitter, without(3), refused=("gap",)),
    "slice missing, oblique": messy(without(3), orientation=OBLIQUE, refused=("gap",)),
    "slice twice, orientation differs by 1e-6": messy(jitter, repeated, accepted=("duplicate_resolved",)),
    "slice twice, oblique, reversed numbers": messy(
        repeated, reversed_numbers, orientation=OBLIQUE, accepted=("duplicate_resolved",)
    ),
    "slice twice, JPEG 2000": messy(repeated, compressed(JPEG2000Lossless), accepted=("duplicate_resolved",)),
    "file cut off, whole copy there": messy(write=cut_copy, accepted=_OK),
    "JPEG 2000, cut off": messy(compressed(JPEG2000Lossless), write=cut, refused=("gap",)),
    "deflated, cut off": messy(in_syntax(DeflatedExplicitVRLittleEndian), write=cut, refused=("gap",)),
    "MONOCHROME1, JPEG-LS": messy(
        setting(PhotometricInterpretation="MONOCHROME1"), compressed(JPEGLSLossless), accepted=_OK
    ),
    "padding, MONOCHROME1": messy(padding, setting(PhotometricInterpretation="MONOCHROME1"), accepted=_OK),
    "padding, big endian": messy(padding, big_endian, accepted=_OK),
    "slope per slice, deflated": messy(own_slopes, in_syntax(DeflatedExplicitVRLittleEndian), accepted=_OK),
    "no preamble, slice twice": messy(repeated, write=bare, accepted=("duplicate_resolved",)),
    "enhanced, frames shuffled, two temporal positions": messy(
        phases([{"TemporalPositionIdentifier": n} for n in (1, 2)]),
        write=partial(enhanced, (*_SHUFFLED, *(8 + n for n in _SHUFFLED))),
        accepted=_OK * 2,
    ),
    "enhanced, frame missing": messy(without(3), write=partial(enhanced, None), refused=("gap",)),
    "enhanced, tilted": messy(tilted, write=partial(enhanced, None), refused=("tilted",)),
    "enhanced, shuffled, slope per frame": messy(own_slopes, write=partial(enhanced, _SHUFFLED), accepted=_OK),
    "enhanced, shuffled, JPEG 2000": messy(
        write=partial(enhanced, _SHUFFLED, then=compressed(JPEG2000Lossless)), accepted=_OK
    ),
    "enhanced, cut off": messy(write=cut_enhanced),
}  # fmt: skip
