"""What the ``dataset.json`` of the Decathlon and of nnU-Net share: channels, labels, and refusals in words.

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
    """The label table from {"0": "background"} or {"background": 0}. Raises DatasetError."""
    found = content.get("labels")
    if not isinstance(found, dict) or not found:
        raise DatasetError(f'{path} should hold "labels" such as {{"background": 0, "liver": 1}}.')
    labels = [_label(key, value, path) for key, value in found.items()]
    return LabelTable.validated({"labels": labels}, str(path))


def _label(key: str, value: Any, path: Path) -> dict[str, Any]:
    if isinstance(value, list):
        raise DatasetError(
            f"{path}: the label '{key}' is a region made of {value}; regions are not supported yet. "
            "Give each structure a value of its own."
        )
    name, number = (value, key) if isinstance(value, str) and _is_whole(key) else (key, value)
    if not _is_whole(number):
        raise DatasetError(f"{path}: the label '{name}' should have a whole number as its value, but has {number!r}.")
    if str(name).lower() == "ignore":
        raise DatasetError(
            f"{path}: the label 'ignore' is not supported yet. Leave it out of \"labels\" and set those voxels to the "
            "background, or leave these cases out."
        )
    return {"name": str(name), "value": int(number)}


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value) is not None)
