"""What to predict: a file or a folder of files becomes Cases, by their names alone.

Opens no file. Several channels of one Case are ``X_0000``, ``X_0001``, ... (nnU-Net's naming); a file without such a
number is a Case of its own, whose channels are all inside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medseg.cases.case import Case
from medseg.errors import Complaint, DatasetError
from medseg.images.formats import SUFFIXES, stem_of

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find_cases(path: Path, channels: Sequence[str]) -> tuple[list[Case], list[Complaint]]:
    """The Cases in a folder (not in folders inside it) or of one file, by name, and what is wrong with the others.

    ``channels`` are the names the model expects. A file given alone brings the other channels of its Case with it.
    Raises DatasetError when there is nothing to predict.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"input={path} does not exist. Name an image file or a folder of image files.")
    files = _images(path if path.is_dir() else path.parent)
    if path.is_file():
        files = _of_same_case(path, files, several=len(channels) > 1)
    if not files:
        raise DatasetError(f"There is no image in {path}. Files that can be read end in {', '.join(SUFFIXES)}.")
    numbered = [_NUMBERED.fullmatch(stem_of(file)) for file in files]
    by_number = len(channels) > 1 or _all_start_at_0000(numbered)
    groups: dict[str, list[tuple[int, Path]]] = {}
    for file, match in zip(files, numbered, strict=True):
        if match is not None and by_number:
            groups.setdefault(match["case"], []).append((int(match["channel"]), file))
        else:
            groups.setdefault(stem_of(file), []).append((-1, file))
    cases, complaints = [], []
    for name, found in sorted(groups.items()):
        complaint = _complaint(name, found, channels)
        if complaint is None:
            cases.append(Case(name, tuple(file for _, file in sorted(found))))
        else:
            complaints.append(complaint)
    return cases, complaints


def has_images(folder: Path) -> bool:
    """Whether a folder itself holds files of a known suffix."""
    return bool(_images(folder))


def suffix_of(path: Path) -> str:
    """The file's image suffix as written: ``.nii.gz`` of ``a_0000.nii.gz``."""
    return path.name[len(stem_of(path)) :]


def _images(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".") and suffix_of(file)
    )


def _all_start_at_0000(numbered: Sequence[re.Match[str] | None]) -> bool:
    """Whether the numbers are channels; in ``amos_0001``, ``amos_0002`` they are cases."""
    found = {(match["case"], match["channel"]) for match in numbered if match is not None}
    return None not in numbered and all((case, "0000") in found for case, _ in found)


def _of_same_case(path: Path, siblings: Sequence[Path], several: bool) -> list[Path]:
    match = _NUMBERED.fullmatch(stem_of(path))
    if not several or match is None:
        return [path]
    wanted = [(sibling, _NUMBERED.fullmatch(stem_of(sibling))) for sibling in siblings]
    return [sibling for sibling, other in wanted if other is not None and other["case"] == match["case"]]


def _complaint(name: str, found: Sequence[tuple[int, Path]], channels: Sequence[str]) -> Complaint | None:
    """None when the files are one for each channel, or a single one that may hold all of them."""
    numbers = sorted(number for number, _ in found)
    names = ", ".join(sorted(file.name for _, file in found))
    twice = len(set(numbers)) < len(numbers) or (-1 in numbers and len(numbers) > 1)
    if twice:
        sentence = f"Case '{name}' has more than one file for the same channel: {names}."
        return Complaint(name, "ambiguous-siblings", sentence, "Remove the one that is not meant.")
    if numbers in ([-1], list(range(len(channels)))):
        return None
    missing = [f"{index} ({channel})" for index, channel in enumerate(channels) if index not in numbers]
    if missing:
        ending = f"_{next(index for index in range(len(channels)) if index not in numbers):04d}"
        sentence = f"Case '{name}' lacks channel {', '.join(missing)}: there is only {names}."
        return Complaint(name, "missing-channel", sentence, f"Add {name}{ending}, or leave the case out.")
    sentence = f"Case '{name}' has {len(numbers)} channels ({names}), but the model takes {len(channels)}."
    remedy = (
        f"The model's channels are: {', '.join(channels)}. If these files are cases of their own, rename them so that "
        f"they do not end in _ and four digits, for example {name}-0000."
    )
    return Complaint(name, "too-many-channels", sentence, remedy)
