"""Datasets of two small cases, one of them broken in a way that readers are known to let through.

Knows nothing of who has to notice. The faults: performance.md's list of what SimpleITK, nibabel and nnU-Net's own
verification pass in silence.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.benchmarking.material import Shape, draw_case, write_raw
from medseg.cases.case import Case
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume

_SHAPE, _SIZE = Shape((16, 16, 16), (4, 8)), (20, 24, 22)
_HEADER = 352
Fault = Callable[[Case, Volume, np.ndarray], None]


def write_faulty(folder: Path) -> dict[str, Path]:
    """One dataset for each fault, by its name."""
    found = {}
    for name, spoil in FAULTS.items():
        place = folder / name
        cases = [draw_case(_SIZE, (1.0, 1.0, 1.0), 2, seed) for seed in (1, 2)]
        written = write_raw(place, cases, _SHAPE)
        spoil(written[1], *cases[1])
        found[name] = place
    return found


def _cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _with_flipped_bit(content: bytes) -> bytes:
    place = 2 * len(content) // 3
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def _image_bytes(change: Callable[[bytes], bytes]) -> Fault:
    return lambda case, *_: _rewrite(case.images[0], change)


def _labels_bytes(change: Callable[[bytes], bytes]) -> Fault:
    return lambda case, *_: _rewrite(_labels_path(case), change)


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _voxel(value: float) -> Fault:
    """One voxel that is no number; written past our own writer, which would refuse it."""

    def spoil(case: Case, image: Volume, _: np.ndarray) -> None:
        packed = gzip.decompress(case.images[0].read_bytes())
        voxels = image.array[0].astype("<f4").copy()
        voxels[10, 10, 10] = value
        header = bytearray(packed[:_HEADER])
        header[70:74] = (16).to_bytes(2, "little") + (32).to_bytes(2, "little")  # datatype and bitpix of float32
        header[112:120] = np.array([1, 0], "<f4").tobytes()  # slope and intercept
        case.images[0].write_bytes(gzip.compress(bytes(header) + voxels.tobytes()))

    return spoil


def _relabelled(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def spoil(case: Case, image: Volume, labels: np.ndarray) -> None:
        write_labels(_labels_path(case), change(labels), image)

    return spoil


def _moved(case: Case, image: Volume, labels: np.ndarray) -> None:
    affine = image.affine.copy()
    affine[:3, 3] += 15
    write_labels(_labels_path(case), labels, replace(image, affine=affine))


def _mirrored(case: Case, image: Volume, labels: np.ndarray) -> None:
    affine = image.affine.copy()
    affine[0, 2] = -affine[0, 2]
    write_labels(_labels_path(case), labels, replace(image, affine=affine))


def _other_spacing(case: Case, image: Volume, _: np.ndarray) -> None:
    write_image(case.images[0], image.array, replace(image, affine=image.affine @ np.diag([2.0, 1, 1, 1])))


def _labels_path(case: Case) -> Path:
    assert case.labels is not None
    return case.labels


def _with_unknown_value(labels: np.ndarray) -> np.ndarray:
    changed = labels.copy()
    changed[:3, :3, :3] = 7
    return changed


FAULTS: dict[str, Fault] = {
    "image-cut-off": _image_bytes(_cut_off),
    "labels-cut-off": _labels_bytes(_cut_off),
    "image-bit-flipped": _image_bytes(_with_flipped_bit),
    "labels-bit-flipped": _labels_bytes(_with_flipped_bit),
    "image-with-nan": _voxel(float("nan")),
    "image-with-infinity": _voxel(float("inf")),
    "labels-all-background": _relabelled(np.zeros_like),
    "labels-with-unknown-value": _relabelled(_with_unknown_value),
    "labels-moved": _moved,
    "labels-mirrored": _mirrored,
    "spacing-differs": _other_spacing,
    "image-empty-file": _image_bytes(lambda _: b""),
}
