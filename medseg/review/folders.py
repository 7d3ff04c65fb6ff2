"""Cases of a folder that nobody has described: images by their names, DICOM by its series.

Opens no pixels. Channels are numbered as for ``medseg predict`` (``X_0000``, ``X_0001``, ...).
"""

from __future__ import annotations

import re
from pathlib import Path

from medseg.cases.dicom_inputs import find_dicom_cases
from medseg.cases.draft import default_channels
from medseg.errors import DatasetError
from medseg.images.formats import peek_image, stem_of
from medseg.inference.inputs import find_cases
from medseg.review.case import ReviewCase

_NUMBERED = re.compile(r".+_(\d{4})")


def cases_of_images(path: Path) -> list[ReviewCase]:
    """The Cases of a folder of images, or of one file. Raises DatasetError where there is none."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    numbers = [_NUMBERED.fullmatch(stem_of(file)) for file in files if stem_of(file) != file.name]
    several = bool(numbers) and None not in numbers and any(match and match[1] == "0000" for match in numbers)
    count = 1 + max((int(match[1]) for match in numbers if match), default=0) if several else 1
    cases, complaints = find_cases(path, default_channels(count))
    if not cases:
        raise DatasetError(f"There is no image to look at in {path}:", complaints)
    return [ReviewCase(case.name, case.images, default_channels(_channels_in(case.images))) for case in cases]


def dicom_cases(folder: Path) -> list[ReviewCase]:
    """A Case for each series of a folder of DICOM studies that makes a volume. Raises DatasetError where none does."""
    found = find_dicom_cases(folder, ("image",), None)
    series = {one.name: one for one in found.manifest.series}
    return [
        ReviewCase(
            case.name,
            case.images,
            (series[case.name].modality if case.name in series else "image",),
            description=series[case.name].description if case.name in series else "",
        )
        for case in found.cases
    ]


def _channels_in(images: tuple[Path, ...]) -> int:
    """By the headers; a picture's colours are told only as it is read, and taken for one."""
    try:
        volumes = [peek_image(path) for path in images]
    except DatasetError:
        return len(images)  # told when the Case is opened
    return sum(1 if volume is None else len(volume.array) for volume in volumes)
