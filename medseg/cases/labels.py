"""The named structures of a Dataset and their values in files; inside medseg they are indices 0, 1, 2, ...

Index 0 is the background. Values may be any integers; they are mapped on reading and mapped back on writing.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from medseg.arrays import label_dtype
from medseg.documents import Document, Record
from medseg.errors import DatasetError, MedsegError


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


class LabelTable(Document):
    """Every structure of a Dataset, background first; written as ``labels.yaml`` beside a plan."""

    kind: ClassVar[str] = "labels"
    error: ClassVar[type[MedsegError]] = DatasetError

    labels: tuple[Label, ...]
    """Background first, then in ascending order of value; a label's place in this list is its index."""

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
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the structures without the background, in index order (index 1 first)."""
        return tuple(label.name for label in self.labels[1:])

    @property
    def values(self) -> tuple[int, ...]:
        """File values in index order, background first."""
        return tuple(label.value for label in self.labels)

    @property
    def colors(self) -> list[tuple[int, int, int]] | None:
        """Colours in index order (index 1 first), or None unless every structure has one of its own."""
        found = [label.color for label in self.labels[1:] if label.color is not None]
        return found if len(found) == len(self.labels) - 1 else None

    def __len__(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    def to_indices(self, values: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """File values -> indices. Raises DatasetError for a value that no label has."""
        dtype = label_dtype(len(self) - 1)
        present = np.unique(values)
        unknown = sorted(set(present.tolist()) - set(self.values))
        if unknown:
            raise DatasetError(
                f"The labels hold the value{'s' if len(unknown) > 1 else ''} {unknown[:8]} that no label has; "
                f"known values are {sorted(self.values)}. Add the label to the dataset, or correct the file."
            )
        order = np.argsort(self.values)
        return order.astype(dtype)[np.searchsorted(np.array(self.values)[order], values)]

    def to_values(self, indices: NDArray[np.integer]) -> NDArray[np.integer]:
        """Indices -> file values; the type follows the largest (and smallest) value, never their number."""
        values = np.array(self.values, dtype=np.int64)
        dtype = label_dtype(int(values.max())) if values.min() >= 0 else np.int32
        return values.astype(dtype)[indices]
