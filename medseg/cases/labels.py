"""The named structures of a Dataset and their values in files; inside medseg they are indices 0, 1, 2, ...

Index 0 is the background. Values may be any integers; they are mapped on reading and mapped back on writing. What is
learned, sampled and scored are the table's *targets*: one for each structure, or the regions where there are any. One
value may mean "not annotated"; it becomes the index after the last structure, which no prediction holds.
How a user writes them down: ``medseg.cases.listing``.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from medseg.arrays import Labels, Mask, label_dtype
from medseg.cases.regions import Region, require_writable
from medseg.documents import Document, Record
from medseg.errors import DatasetError, MedsegError

_LONGEST_TABLE = 100_000
"""Values below this are translated by a table."""


class Label(Record):
    """One structure."""

    name: str
    """As the user writes it."""
    value: int = Field(ge=-(2**31), lt=2**31)
    """The integer that stands for it in label files; 32 bits with a sign, which every format holds."""
    color: tuple[int, int, int] | None = None
    """Red, green, blue, 0 to 255; a default colour is used where none is given."""
    code: str | None = None
    """SNOMED CT code, if known."""


class Target(Record):
    """What a network learns to find, and what is scored: a structure, or a region of several."""

    name: str
    indices: tuple[int, ...]
    """Indices of its labels, ascending."""
    written_index: int
    """The index that stands for it in a predicted label map."""
    color: tuple[int, int, int] | None = None
    """Red, green, blue, 0 to 255; a default colour is used where none is given."""
    code: str | None = None
    """SNOMED CT code, if known."""

    def mask(self, labels: Labels) -> Mask:
        """Where the target lies in label indices (Z, Y, X)."""
        return labels == self.indices[0] if len(self.indices) == 1 else np.isin(labels, self.indices)


class LabelTable(Document):
    """Every structure of a Dataset, background first; written as ``labels.yaml`` beside a plan."""

    kind: ClassVar[str] = "labels"
    error: ClassVar[type[MedsegError]] = DatasetError

    labels: tuple[Label, ...]
    """Background first, then in ascending order of value; a label's place in this list is its index."""
    regions: tuple[Region, ...] = ()
    """Targets that join labels and may overlap, in the order of writing: later ones overwrite earlier ones. Where
    there are any, they are learned and scored instead of the single labels."""
    ignore: int | None = Field(default=None, ge=-(2**31), lt=2**31)
    """The value of voxels that nobody has annotated: nothing is learned from them, and nothing is scored there."""

    @field_validator("labels")
    @classmethod
    def _background_first(cls, labels: tuple[Label, ...]) -> tuple[Label, ...]:
        background = next((x for x in labels if x.name.lower() == "background"), None)
        if background is None:
            background = next((x for x in labels if x.value == 0), Label(name="background", value=0))
        others = sorted((label for label in labels if label is not background), key=lambda label: label.value)
        return (background, *others)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, found in (("name", [x.name for x in self.labels]), ("value", [str(x.value) for x in self.labels])):
            twice = sorted({x for x in found if found.count(x) > 1})
            if twice:
                raise ValueError(f"two labels have the same {what}: {', '.join(twice)}")
        taken = next((label.name for label in self.labels if label.value == self.ignore), None)
        if taken is not None:
            raise ValueError(f"the ignore value {self.ignore} is the value of '{taken}'; choose one that no label has")
        if any(label.name.lower() == "ignore" for label in self.labels):
            raise ValueError("'ignore' is no structure: give its value as ignore, beside labels and not among them")
        require_writable(self.regions, {label.name: label.value for label in self.labels[1:]})
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the structures without the background, in index order (index 1 first)."""
        return tuple(label.name for label in self.labels[1:])

    @property
    def values(self) -> tuple[int, ...]:
        """File values in index order, background first; without the ignore value."""
        return tuple(label.value for label in self.labels)

    @property
    def values_by_name(self) -> dict[str, int]:
        """File values of the structures, background included."""
        return {label.name: label.value for label in self.labels}

    @property
    def known_values(self) -> tuple[int, ...]:
        """Every value that a label file may hold: ``values``, and the ignore value at its index."""
        return self.values if self.ignore is None else (*self.values, self.ignore)

    @property
    def ignore_index(self) -> int | None:
        """The index of voxels that nobody has annotated; None where the table has no such value."""
        return None if self.ignore is None else len(self)

    @property
    def outside_index(self) -> int:
        """The index of voxels outside of an image: nobody annotated them, where that can be said, else background."""
        return self.ignore_index or 0

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is learned, sampled, scored and chosen by: the regions in their order, else every structure."""
        if not self.regions:
            return tuple(
                Target(name=label.name, indices=(index,), written_index=index, color=label.color, code=label.code)
                for index, label in enumerate(self.labels[1:], start=1)
            )
        by_name = {label.name: index for index, label in enumerate(self.labels)}
        return tuple(
            Target(
                name=region.name,
                indices=tuple(sorted(by_name[name] for name in region.labels)),
                written_index=self.values.index(region.written),
                color=region.color,
                code=region.code,
            )
            for region in self.regions
        )

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets in their order."""
        return tuple(target.name for target in self.targets)

    @property
    def activation(self) -> Literal["softmax", "sigmoid"]:
        """What makes probabilities of the network's outputs: classes exclude one another, regions do not."""
        return "sigmoid" if self.regions else "softmax"

    @property
    def outputs(self) -> int:
        """Output channels of a network: one for each region, else one for each class, background included."""
        return len(self.regions) or len(self)

    def __len__(self) -> int:
        """Number of label classes, background included; "not annotated" is none."""
        return len(self.labels)

    def to_indices(self, values: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """File values -> indices, the ignore value -> ``ignore_index``. Raises DatasetError for an unknown value."""
        known = np.array(self.known_values)
        present = _present(values)
        unknown = sorted(set(present.tolist()) - set(known.tolist()))
        if unknown:
            raise DatasetError(
                f"The labels hold the value{'s' if len(unknown) > 1 else ''} {unknown[:8]} that no label has; "
                f"known values are {sorted(known.tolist())}. Add the label to the dataset, or correct the file."
            )
        dtype = label_dtype(len(known) - 1)
        if np.array_equal(known, np.arange(len(known))):
            return values.astype(dtype)
        if known.min() >= 0 and known.max() < _LONGEST_TABLE:
            table = np.zeros(known.max() + 1, dtype)
            table[known] = np.arange(len(known))
            return table[values]
        order = np.argsort(known)
        return order.astype(dtype)[np.searchsorted(known[order], values)]

    def to_values(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Indices of a prediction -> file values; ``ignore_index`` has no place there.

        The type follows the largest (and smallest) value, never their number.
        """
        values = np.array(self.values, dtype=np.int64)
        dtype = label_dtype(int(values.max())) if values.min() >= 0 else np.int32
        return values.astype(dtype)[indices]


def _present(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """The values that occur, ascending; counted where they are small, which is far faster than sorting or hashing."""
    if values.size and values.min() >= 0 and values.max() < _LONGEST_TABLE:
        return np.flatnonzero(np.bincount(values.reshape(-1)))
    return np.unique(values)
