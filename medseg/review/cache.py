"""A Case made ready for looking at, once: arrays on the disk that open at once and are read slice by slice.

Knows nothing of pages. For each Case a folder holds the image as it lies on the page (``image.npy``, C order, int16
where that loses nothing), every label map and map of uncertainty that was asked for, and small NIfTI copies for a
browser's 3D view. What is made of a file is made anew when the file has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Affine, Labels, Spacing, Triple
from medseg.cases.case import read_case_image
from medseg.documents import Document
from medseg.errors import MedsegError
from medseg.files import folder_written_whole, hash_content, written_whole
from medseg.images.formats import read_image, read_labels_for, write_image, write_labels
from medseg.images.volume import Volume, require_same_grid, spacing_of
from medseg.progress import Progress, Silent
from medseg.review.case import Finding, ReviewCase
from medseg.review.turn import Turn

_LONGEST = 256
"""Voxels per axis of what a browser gets; a texture of the whole of a large CT would not fit its memory."""
_SAMPLE = 2_000_000
"""Voxels by which windows are chosen."""


class PreparedCase(Document):
    """``case.json`` in the folder of a prepared Case."""

    kind: ClassVar[str] = "prepared_for_review"

    case: str
    source: str
    """Hash of the image files' paths, sizes and times."""
    channels: tuple[str, ...]
    file_shape: Triple
    file_affine: tuple[tuple[float, ...], ...]
    shape: Triple
    """On the page (z, y, x)."""
    order: Triple
    reverse: tuple[bool, bool, bool]
    orientation_known: bool
    stride: Triple
    """Every how many voxels the browser's copy has one."""
    remarks: tuple[str, ...] = ()
    """What the reader found odd."""


@dataclass(frozen=True, eq=False)
class OpenCase:
    """A prepared Case. Arrays are memory maps, read where they are looked at."""

    case: ReviewCase
    folder: Path
    record: PreparedCase
    image: NDArray[Any]
    """(C, Z, Y, X) on the page."""

    @property
    def shape(self) -> Triple:
        return self.record.shape

    @property
    def is_thinned(self) -> bool:
        """Whether the copies for the browser have fewer voxels than the image."""
        return max(self.record.stride) > 1

    @property
    def turn(self) -> Turn:
        return Turn(self.record.order, self.record.reverse)

    @property
    def file_affine(self) -> Affine:
        return np.array(self.record.file_affine)

    @property
    def affine(self) -> Affine:
        """From (z, y, x, 1) of the page to world millimetres."""
        return self.turn.affine(self.file_affine, self.record.file_shape)

    @property
    def spacing(self) -> Spacing:
        """Millimetres (z, y, x) on the page."""
        return spacing_of(self.affine)

    @property
    def grid(self) -> Volume:
        """The file's own grid without its voxels; labels that are written shall lie on it."""
        return Volume(
            np.broadcast_to(np.float32(0), (1, *self.record.file_shape)),
            self.file_affine,
            orientation_known=self.record.orientation_known,
        )

    def viewer_image(self, channel: int = 0) -> Path:
        """A NIfTI file for the browser."""
        return self.folder / f"viewer_{channel}.nii.gz"

    def sample(self, channel: int) -> NDArray[Any]:
        """Intensities by which windows are chosen."""
        values = self.image[channel].reshape(-1)
        return np.asarray(values[:: max(values.size // _SAMPLE, 1)])

    def labels(self, finding: Finding) -> Labels:
        """Label indices (Z, Y, X) on the page. Raises what reading them raises, GeometryError for another grid."""
        return np.load(self._made(finding), mmap_mode="r")

    def viewer_labels(self, finding: Finding) -> Path:
        """Label indices as a NIfTI file for the browser."""
        return self._made(finding).with_suffix(".nii.gz")

    def map(self, path: Path) -> NDArray[np.float32]:
        """A map (Z, Y, X) on the page, such as of uncertainty."""
        target = self.folder / "maps" / f"{_key([path])}.npy"
        if not target.is_file():
            volume = read_image(path)
            require_same_grid(self.grid, volume, f"Case '{self.case.name}'", path.name)
            _save(target, self.turn.to_page(volume.array[0]).astype(np.float32))
        return np.load(target, mmap_mode="r")

    def viewer_map(self, path: Path) -> Path:
        """A map as a NIfTI file for the browser."""
        target = self.folder / "maps" / f"{_key([path])}.nii.gz"
        if not target.is_file():
            write_image(target, *_thinned(self.map(path), self))
        return target

    def _made(self, finding: Finding) -> Path:
        key = _key([finding.labels], finding.table.content())
        target = self.folder / "labels" / f"{key}.npy"
        if not target.is_file():
            indices = self.turn.to_page(self.read_labels(finding.labels, finding))
            write_labels(target.with_suffix(".nii.gz"), *_thinned(indices, self))
            _save(target, indices)
        return target

    def read_labels(self, path: Path, finding: Finding) -> Labels:
        """Label indices of a file in the file's axes. Raises GeometryError unless they lie on the image's grid."""
        like = self.grid if path.suffix else read_image(self.case.images[0])
        volume = read_labels_for(path, like, finding.table.values_by_name)
        require_same_grid(self.grid, volume, f"Case '{self.case.name}'", path.name)
        return finding.table.to_indices(volume.array)


def open_case(case: ReviewCase, cache: Path, progress: Progress | None = None) -> OpenCase:
    """The Case from the cache, where it is put first if it is not there or its files have changed.

    Raises DatasetError for an image that can't be read, MedsegError when the disk refuses.
    """
    folder = cache / case.name
    source = _key(case.images)
    record = _record(folder)
    if record is None or record.source != source:
        record = _prepare(case, folder, source, progress or Silent())
    return OpenCase(case, folder, record, np.load(folder / "image.npy", mmap_mode="r"))


def is_prepared(case: ReviewCase, cache: Path) -> bool:
    """Whether the Case opens at once."""
    record = _record(cache / case.name)
    return record is not None and record.source == _key(case.images)


def _record(folder: Path) -> PreparedCase | None:
    if not (folder / "case.json").is_file():
        return None
    try:
        return PreparedCase.load(folder / "case.json")
    except MedsegError:
        return None  # of an older medseg: made anew


def _prepare(case: ReviewCase, folder: Path, source: str, progress: Progress) -> PreparedCase:
    progress.start("Preparing", 3)
    volume = read_case_image(case.as_case, len(case.channels))
    progress.advance()
    turn = Turn.of(volume)
    pages = turn.to_page(volume.array)
    stride = tuple(ceil(length / _LONGEST) for length in pages.shape[1:])
    record = PreparedCase(
        case=case.name,
        source=source,
        channels=case.channels,
        file_shape=volume.shape,
        file_affine=tuple(tuple(float(value) for value in row) for row in volume.affine),
        shape=pages.shape[1:],
        order=turn.order,
        reverse=turn.reverse,
        orientation_known=volume.orientation_known,
        stride=stride,
        remarks=volume.remarks,
    )
    with folder_written_whole(folder) as partial:
        _save_image(partial / "image.npy", pages)
        progress.advance()
        for channel, page in enumerate(pages):
            write_image(partial / f"viewer_{channel}.nii.gz", *_averaged(page, record, turn))
        record.save(partial / "case.json")
        progress.advance()
    progress.finish()
    return record


def _save_image(path: Path, pages: NDArray[np.float32]) -> None:
    """Slice by slice, so that the image is in memory only once."""
    whole = all(_is_int16(plane) for channel in pages for plane in channel)
    stored = np.lib.format.open_memmap(path, "w+", np.int16 if whole else np.float32, pages.shape)
    for channel, page in enumerate(pages):
        for index, plane in enumerate(page):
            stored[channel, index] = plane
    stored.flush()


def _is_int16(plane: NDArray[np.float32]) -> bool:
    return bool(plane.min() >= -32768 and plane.max() <= 32767 and np.array_equal(plane, np.rint(plane)))


def _averaged(page: NDArray[np.float32], record: PreparedCase, turn: Turn) -> tuple[NDArray[np.float32], Volume]:
    """Means of blocks, and the grid of their centres."""
    z, y, x = record.stride
    depth, height, width = (length // step for length, step in zip(record.shape, record.stride, strict=True))
    small = np.empty((depth, height, width), np.float32)
    for index in range(depth):
        block = page[index * z : (index + 1) * z, : height * y, : width * x]
        small[index] = block.reshape(z, height, y, width, x).mean(axis=(0, 2, 4))
    return small, _coarse(small.shape, record, turn, [(step - 1) / 2 for step in record.stride])


def _thinned(indices: Labels, one: OpenCase) -> tuple[Labels, Volume]:
    """Every n-th voxel, and the grid of those."""
    z, y, x = (step // 2 for step in one.record.stride)
    z_step, y_step, x_step = one.record.stride
    small = np.ascontiguousarray(indices[z::z_step, y::y_step, x::x_step])
    return small, _coarse(small.shape, one.record, one.turn, [z, y, x])


def _coarse(shape: Any, record: PreparedCase, turn: Turn, offset: list[float] | list[int]) -> Volume:
    scale = np.diag([*record.stride, 1.0])
    scale[:3, 3] = offset
    affine = turn.affine(np.array(record.file_affine), record.file_shape) @ scale
    return Volume(np.broadcast_to(np.float32(0), (1, *shape)), affine, orientation_known=record.orientation_known)


def _save(path: Path, array: NDArray[Any]) -> None:
    with written_whole(path) as temporary:
        np.save(temporary, np.ascontiguousarray(array), allow_pickle=False)


def _key(paths: tuple[Path, ...] | list[Path], more: object = None) -> str:
    """What files are, without reading them."""
    seen = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hash_content([seen, more])[:24]


def with_finding(case: ReviewCase, finding: Finding) -> ReviewCase:
    """The Case with one more finding, the first one to be shown."""
    others = tuple(one for one in case.findings if one.name != finding.name)
    return replace(case, findings=(finding, *others))
