"""Regions: targets that join several labels and may overlap, such as the whole tumour, its core, the enhancing part.

Knows no voxels. A network learns every region by itself; a label map holds one value a voxel, so regions are written
into it in their order and later ones overwrite earlier ones. Rule: nnU-Net's region-based training (Isensee et al.
2021, BraTS 2020, arXiv 2011.00848).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, field_validator

from medseg.documents import Record


class Region(Record):
    """One target that joins labels."""

    name: str
    """As the user writes it; scores are given under this name."""
    labels: tuple[str, ...] = Field(min_length=1)
    """Names of the labels it joins."""
    written: int
    """The value, one of its labels', that is written where it is found and no later region is."""
    color: tuple[int, int, int] | None = None
    """Red, green, blue, 0 to 255; a default colour is used where none is given."""
    code: str | None = None
    """SNOMED CT code, if known."""

    @field_validator("labels")
    @classmethod
    def _each_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in labels if labels.count(name) > 1})
        if twice:
            raise ValueError(f"the region joins {', '.join(twice)} twice")
        return labels


def own_value(joined: Sequence[str], later: Sequence[Sequence[str]], values: Mapping[str, int]) -> int:
    """The value to write for a region that names none: its first label that no ``later`` region joins.

    ``values`` are those of all structures by name. Raises ValueError where every label belongs to a later region too.
    """
    covered = {name for labels in later for name in labels}
    for name in joined:
        if name in values and name not in covered:
            return values[name]
    raise ValueError(
        f"the region of {', '.join(joined)} has no label of its own, so nothing could be written for it. List each "
        "region before those inside it, and name it after labels that are in the dataset"
    )


def require_writable(regions: Sequence[Region], values: Mapping[str, int]) -> None:
    """Raise ValueError unless a label map can hold the regions: written in their order, each is read back as it was.

    ``values`` are those of all structures by name.
    """
    names = [region.name for region in regions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two regions have the same name: {', '.join(twice)}")
    by_value = {value: name for name, value in values.items()}
    for region in regions:
        unknown = [name for name in region.labels if name not in values]
        if unknown:
            raise ValueError(
                f"the region '{region.name}' joins {', '.join(unknown)}, which is no structure of this dataset; there "
                f"are {', '.join(values) or 'none'}"
            )
        if by_value.get(region.written) not in region.labels:
            raise ValueError(
                f"the region '{region.name}' is written as {region.written}, which is the value of none of its labels "
                f"({', '.join(f'{name}: {values[name]}' for name in region.labels)})"
            )
    same = [(a.name, b.name) for i, a in enumerate(regions) for b in regions[i + 1 :] if set(a.labels) == set(b.labels)]
    if same:
        raise ValueError(f"the regions {' and '.join(same[0])} join the same labels; leave one out")
    for label in values:
        _require_read_back(label, regions, by_value)


def _require_read_back(label: str, regions: Sequence[Region], by_value: Mapping[int, str]) -> None:
    """Raise ValueError where a voxel of ``label``, written and read again, lies in other regions than before."""
    inside = [region for region in regions if label in region.labels]
    if not inside:
        return
    last = inside[-1]
    found = [region for region in regions if by_value[last.written] in region.labels]
    if [region.name for region in found] == [region.name for region in inside]:
        return
    raise ValueError(
        f"written in this order the regions overwrite one another: '{label}' belongs to "
        f"{' and '.join(region.name for region in inside)}, but would be written as {last.written}, which belongs to "
        f"{' and '.join(region.name for region in found)}. List each region before those inside it; regions that "
        "overlap otherwise need a label for what they share"
    )
