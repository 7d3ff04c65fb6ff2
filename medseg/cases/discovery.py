"""Channels and labels where nobody has named them: looked up in the files.

Knows no layout; every image goes through ``medseg.images.formats``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medseg.cases.draft import Draft, default_channels
from medseg.cases.labels import LabelTable
from medseg.errors import ImageFileError, MedsegError
from medseg.images.formats import read_image, read_labels


def discover_channels(draft: Draft) -> None:
    """Count the channels of the first readable Case, unless they are named already."""
    for case in () if draft.channels else (*draft.cases.values(), *draft.unlabelled.values()):
        try:
            volumes = [read_image(path) for path in case.images]
        except MedsegError:
            continue  # said when the Case itself is read
        draft.channels = default_channels(sum(volume.array.shape[0] for volume in volumes))
        return
    draft.channels = draft.channels or default_channels(1)


def discover_labels(draft: Draft) -> None:
    """Name every value of the label files 'label 1', 'label 2', ... unless they are named already.

    Reads all label files; one that can't be read is a complaint, since its values stay unknown.
    """
    if draft.labels is not None:
        return
    cases = [case for case in draft.cases.values() if case.labels is not None]
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = list(pool.map(lambda case: _values(case.labels), cases))
    values: set[int] = set()
    for case, result in zip(cases, results, strict=True):
        if isinstance(result, MedsegError):
            code = result.code if isinstance(result, ImageFileError) else "unreadable"
            remedy = result.remedy if isinstance(result, ImageFileError) else ""
            sentence = result.sentence if isinstance(result, ImageFileError) else str(result)
            draft.complain(case.name, code, sentence, remedy, case.labels or "")
        else:
            values |= result
    found = [{"name": f"label {value}", "value": value} for value in sorted(values - {0})]
    draft.labels = LabelTable.validated({"labels": found}, str(draft.folder))


def _values(path: Path | None) -> set[int] | MedsegError:
    try:
        return set() if path is None else set(np.unique(read_labels(path).array).tolist())
    except MedsegError as error:
        return error
