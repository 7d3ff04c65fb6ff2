"""What is wrong between label files and the label table: values, structures, regions, and what nobody annotated.

Knows the values that occur in each file, not its voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medseg.cases.case import Case
from medseg.cases.labels import LabelTable
from medseg.errors import Complaint


def label_complaints(case: Case, values: frozenset[int], table: LabelTable) -> Iterator[Complaint]:
    """About the values in one Case's label file."""
    file = str(case.labels)
    unknown = sorted(values - set(table.known_values))
    if unknown and len(table) > 1:
        sentence = (
            f"Case '{case.name}': the labels hold {unknown[:8]}, but known values are {sorted(table.known_values)}."
        )
        remedy = "Add the label to the dataset, or correct the file."
        yield Complaint(case.name, "unknown-label-value", sentence, remedy, file)
    if values == {table.ignore}:
        sentence = f"Case '{case.name}': every voxel of the labels has the ignore value {table.ignore}."
        remedy = "Annotate a part of it, or take its labels away: it is an image without labels."
        yield Complaint(case.name, "nothing-annotated", sentence, remedy, file, "warning")
    elif values - {table.ignore} <= {table.values[0]}:
        sentence = f"Case '{case.name}': the labels hold nothing but background."
        remedy = "Keep it if the patient has none of the structures; otherwise label it, or leave the case out."
        yield Complaint(case.name, "empty-labels", sentence, remedy, file, "warning")


def table_complaints(table: LabelTable, values: Sequence[frozenset[int]]) -> Iterator[Complaint]:
    """About the table as a whole, given the values in each readable label file."""
    present = frozenset().union(*values)
    for label in table.labels[1:] if values else ():
        if label.value not in present:
            sentence = f"No case has the label '{label.name}' (value {label.value}); a network can't learn it."
            remedy = "Add cases that have it, or take the label out of the dataset."
            yield _warning(f"label-never-occurs-{label.value}", sentence, remedy)
    if values and table.ignore is not None and table.ignore not in present:
        sentence = f"No case has the ignore value {table.ignore}: every voxel counts as annotated."
        remedy = "Take it out of the dataset, unless cases that have it will be added."
        yield _warning("ignore-never-occurs", sentence, remedy)
    joined = {name for region in table.regions for name in region.labels}
    for name in table.names if joined else ():
        if name not in joined:
            sentence = f"No region joins the label '{name}', so its voxels are learned as background."
            yield _warning(f"label-in-no-region-{name}", sentence, "Add it to a region, or make one of it.")


def _warning(code: str, sentence: str, remedy: str) -> Complaint:
    return Complaint("", code, sentence, remedy, severity="warning")
