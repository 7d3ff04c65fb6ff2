"""nnU-Net's raw folders: ``imagesTr/X_0000.nii.gz``, ``labelsTr/X.nii.gz``, a ``dataset.json``; ``Ts`` for a test set.

Format: nnU-Net's ``documentation/dataset_format.md`` (version 2), with its optional "dataset" dictionary of paths.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medseg.cases.case import Case
from medseg.cases.dataset_json import channels_of, labels_of
from medseg.cases.draft import Draft


def read_nnunet_raw(draft: Draft, content: dict[str, Any], path: Path) -> None:
    """Fill the draft. Training images without labels become unlabelled, with a warning.

    Images in imagesTs with labels in labelsTs are the test set, the others there are unlabelled.
    """
    draft.name = str(content.get("name") or "")
    draft.channels, draft.labels = channels_of(content, path), labels_of(content, path)
    ending = content.get("file_ending")
    ending = ending if isinstance(ending, str) and ending else None
    if isinstance(content.get("dataset"), dict):
        _read_paths(draft, content["dataset"], path)
    else:
        add_pairs(draft, draft.folder / "imagesTr", draft.folder / "labelsTr", len(draft.channels), ending)
    tests, truths = draft.folder / "imagesTs", draft.folder / "labelsTs"
    if tests.is_dir():
        labels = draft.files_by_stem(truths, ending) if truths.is_dir() else {}
        for name, images in channel_files(draft, tests, len(draft.channels), ending).items():
            draft.add(Case(name, images, labels.get(name), split="test"))


def _read_paths(draft: Draft, listed: dict[str, Any], path: Path) -> None:
    for name, entry in listed.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        labels = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not all(isinstance(x, str) for x in images) or not isinstance(labels, str):
            draft.complain(
                name,
                "bad-list-entry",
                f'{path.name}: the entry \'{name}\' of "dataset" should hold "images": [FILES] and "label": FILE.',
                "Correct the entry.",
                path,
            )
        else:
            draft.add(Case(name, tuple(draft.folder / image for image in images), draft.folder / labels))


def add_pairs(draft: Draft, images: Path, labels: Path, channels: int, ending: str | None = None) -> None:
    """Match ``X_0000``, ``X_0001``, ... with the label file ``X``; complain of labels without an image."""
    found = channel_files(draft, images, channels, ending)
    label_files = draft.files_by_stem(labels, ending)
    refused = {complaint.case for complaint in draft.complaints}
    for name, files in found.items():
        draft.add(Case(name, files, label_files.get(name)))
        if name not in label_files and name not in refused:
            warn_unlabelled(draft, name, labels)
    for name in sorted(set(label_files) - set(found) - refused):
        complain_no_image(draft, name, label_files[name], images)


def channel_files(draft: Draft, folder: Path, channels: int, ending: str | None) -> dict[str, tuple[Path, ...]]:
    """The files of each case in channel order; complains of names without ``_0000`` and of missing channels."""
    groups: dict[str, dict[int, Path]] = {}
    for stem, file in draft.files_by_stem(folder, ending).items():
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match is None:
            draft.complain(
                stem,
                "bad-file-name",
                f"{file.name} in {folder.name} should end in _0000 (its channel's number) before the suffix.",
                "Rename it to CASE_0000, or list the files in a dataset.yaml.",
                file,
            )
        else:
            groups.setdefault(match[1], {})[int(match[2])] = file
    complete: dict[str, tuple[Path, ...]] = {}
    for name, files in sorted(groups.items()):
        if sorted(files) == list(range(channels)):
            complete[name] = tuple(files[index] for index in range(channels))
        else:
            draft.complain(
                name,
                "wrong-channels",
                f"Case '{name}' has the channels {sorted(files)} in {folder.name}, expected are 0 to {channels - 1}.",
                "Add the missing file, or correct the channels in dataset.json.",
                files[min(files)],
            )
    return complete


def warn_unlabelled(draft: Draft, name: str, labels: Path) -> None:
    """An image in the training folder that has no labels beside it."""
    draft.remark(
        name,
        "labels-absent",
        f"Case '{name}' has an image but no file in {labels.name}, so it is left unlabelled.",
        "Add its labels, or move the image elsewhere.",
    )


def complain_no_image(draft: Draft, name: str, file: Path, images: Path) -> None:
    """A label file without an image."""
    draft.complain(
        name,
        "missing-file",
        f"Case '{name}' has labels ({file.name}) but no image in {images}.",
        "Add the image, or take the label file away.",
        file,
    )
