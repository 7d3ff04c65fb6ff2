"""What the ``dataset.json`` of the Decathlon and of nnU-Net share: channels, labels, regions, and refusals in words.

Formats: http://medicaldecathlon.com and nnU-Net's ``documentation/dataset_format.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.cases.labels import LabelTable
from medseg.documents import read_text
from medseg.errors import DatasetError


def read_dataset_json(path: Path) -> dict[str, Any]:
    """The file's content. Raises DatasetError when it is not a JSON object."""
    try:
        content = json.loads(read_text(path, DatasetError))
    except ValueError as error:
        raise DatasetError(f"{path} is not readable as JSON: {error}. Correct the file.") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path} should hold a JSON object, but holds {type(content).__name__}.")
    return content


def channels_of(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Channel names in order, from ``channel_names`` or ``modality``. Raises DatasetError."""
    found = content.get("channel_names", content.get("modality"))
    names = found if isinstance(found, list) else None
    if isinstance(found, dict):
        names = [found.get(str(index)) for index in range(len(found))]
    if not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            f'{path} should name the channels as {{"channel_names": {{"0": "CT"}}}} (or "modality"), '
            f"but says {json.dumps(found)}."
        )
    return tuple(str(name) for name in names)


def labels_of(content: Mapping[str, Any], path: Path) -> LabelTable:
    """The label table from {"0": "background"} or {"background": 0}. Raises DatasetError.

    nnU-Net's regions ({"whole tumour": [1, 2, 3]} with "regions_class_order") and its key "ignore" are read too. Labels
    that only regions speak of have no name there; one that is a region by itself takes its name, another is 'label 2'.
    """
    found = content.get("labels")
    if not isinstance(found, dict) or not found:
        raise DatasetError(f'{path} should hold "labels" such as {{"background": 0, "liver": 1}}.')
    named = [_named(key, value, path) for key, value in found.items()]
    ignore = [values for name, values in named if name.lower() == "ignore"]
    if any(len(values) > 1 for values in ignore):
        raise DatasetError(f"{path}: the label 'ignore' should have one value, but has {ignore[0]}.")
    named = [(name, values) for name, values in named if name.lower() != "ignore"]
    table: dict[str, Any] = {"labels": [{"name": name, "value": values[0]} for name, values in named]}
    if any(len(values) > 1 for _, values in named):
        table = _with_regions(named, content.get("regions_class_order"), path)
    return LabelTable.validated(table | ({"ignore": ignore[0][0]} if ignore else {}), str(path))


def _with_regions(named: list[tuple[str, list[int]]], order: Any, path: Path) -> dict[str, Any]:
    """Labels and regions; the background alone is no region."""
    regions = [(name, values) for name, values in named if values != [0]]
    if any(0 in values for _, values in regions):
        raise DatasetError(f"{path}: a region should join structures only, but one holds the background (0).")
    if not isinstance(order, list) or len(order) != len(regions) or not all(_is_whole(value) for value in order):
        raise DatasetError(
            f'{path} names {len(regions)} regions, so "regions_class_order" should list {len(regions)} values, one to '
            f"write for each region in turn (later ones overwrite earlier ones), but is {json.dumps(order)}."
        )
    alone = {values[0]: name for name, values in regions if len(values) == 1}
    joined = sorted({value for _, values in regions for value in values})
    names = {value: alone.get(value, f"label {value}") for value in joined}
    return {
        "labels": [{"name": "background", "value": 0}, *({"name": n, "value": v} for v, n in names.items())],
        "regions": [
            {"name": name, "labels": [names[value] for value in values], "written": int(written)}
            for (name, values), written in zip(regions, order, strict=True)
        ],
    }


def _named(key: str, value: Any, path: Path) -> tuple[str, list[int]]:
    """(name, its values in ascending order) of one entry."""
    name, given = (value, key) if isinstance(value, str) and _is_whole(key) else (key, value)
    values = given if isinstance(given, list) else [given]
    if not values or not all(_is_whole(number) for number in values):
        raise DatasetError(
            f"{path}: the label '{name}' should have a whole number as its value, or a list of them where it is a "
            f"region, but has {json.dumps(given)}."
        )
    return str(name), sorted({int(number) for number in values})


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value) is not None)
