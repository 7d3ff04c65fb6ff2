"""The structures that label files in DICOM name: segments and regions of interest.

Knows no voxels. A structure's name is what medseg calls a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ImageFileError


@dataclass(frozen=True)
class Structure:
    """One segment or region of interest."""

    number: int
    """By which the rest of its file refers to it."""
    name: str
    code: str | None = None
    """SNOMED CT."""
    color: tuple[int, int, int] | None = None
    """Red, green, blue, 0 to 255."""


def values_of(path: Path, structures: Iterable[Structure], values: Mapping[str, int]) -> dict[int, int]:
    """The label value of each structure by its number. Raises ImageFileError for a name unknown or there twice."""
    structures = list(structures)
    names = [structure.name for structure in structures]
    unknown = sorted(set(names) - set(values))
    if unknown:
        raise ImageFileError(
            "unknown-structure",
            f"{path} names {', '.join(map(repr, unknown[:6]))}, which no label is called; known are "
            f"{', '.join(map(repr, sorted(values)))}.",
            "Add the label to the dataset, or rename the structure.",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        sentence = f"{path} has more than one structure called {twice[0]!r}."
        raise ImageFileError("structure-twice", sentence, "Rename or join them.")
    return {structure.number: values[structure.name] for structure in structures}


def overlapping(path: Path, name: str) -> ImageFileError:
    """The refusal of structures that share voxels."""
    return ImageFileError(
        "overlapping-structures",
        f"{path}: '{name}' overlaps another structure, but a voxel of labels holds one value.",
        "Export structures that do not overlap.",
    )
