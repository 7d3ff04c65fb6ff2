"""Files that a reader sends become a Case like any other.

Knows nothing of pages. The name must be one, nothing of what is sent becomes a path, and every file is checked as any
input is: its header here, its voxels when it is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medseg.errors import DatasetError, MedsegError
from medseg.files import folder_written_whole, require_free_space
from medseg.images.formats import SUFFIXES, is_dicom, peek_image
from medseg.review.case import require_name

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Upload:
    """One file as a browser sends it."""

    name: str
    stream: BinaryIO
    size: int


def take_upload(files: Sequence[Upload], name: str, uploads: Path) -> Path:
    """Put the files of one Case into a folder of its own, whole or not at all; returns the folder.

    Images keep their suffix and get the Case's name (channels in the order given); files without a known suffix have to
    be DICOM and are numbered. Raises DatasetError for a name that can't be one, for mixed kinds, for files that
    can't be read, MedsegError where the disk has no room.
    """
    require_name(name)
    if not files:
        raise DatasetError("There is no file to take in. Choose an image, or all files of a DICOM series.")
    if (uploads / name).exists():
        raise DatasetError(f"There is a case '{name}' already. Choose another name.")
    endings = [next((end for end in SUFFIXES if one.name.lower().endswith(end)), "") for one in files]
    if len(set(endings)) > 1:
        raise DatasetError("Some files are images with a suffix and some are not. Send one kind at a time.")
    require_free_space(uploads.parent, sum(one.size for one in files), "The upload")
    several = len(files) > 1 and bool(endings[0])
    with folder_written_whole(uploads / name) as partial:
        for number, (one, ending) in enumerate(zip(files, endings, strict=True)):
            written = f"{name}{f'_{number:04d}' if several else ''}{ending}" if ending else f"{number:05d}"
            with (partial / written).open("wb") as target:
                shutil.copyfileobj(one.stream, target, _CHUNK)
            _require_readable(partial / written, one.name)
    return uploads / name


def _require_readable(path: Path, told: str) -> None:
    try:
        if path.suffix:
            peek_image(path)
        elif not is_dicom(path):
            raise DatasetError(
                f"It is neither DICOM nor an image; suffixes that can be read are {', '.join(SUFFIXES)}."
            )
    except MedsegError as error:
        raise DatasetError(f"{told[:140]!r} can't be taken in. {str(error).replace(str(path), 'The file')}") from None
