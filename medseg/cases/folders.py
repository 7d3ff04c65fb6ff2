"""A plain pair of folders: ``images/`` and ``labels/`` with files of the same name.

Several channels are ``X_0000``, ``X_0001``, ... if every image is named so; where each of them has a label file of
that very name they are Cases. Names of channels and labels come from a
``dataset.yaml`` without cases, or a ``labels.yaml``, in the same folder; without one, from the files themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

from medseg.cases.case import Case
from medseg.cases.discovery import discover_channels, discover_labels
from medseg.cases.draft import Draft
from medseg.cases.listing import apply_description
from medseg.cases.nnunet_raw import add_pairs, complain_no_image, warn_unlabelled

PAIRS = (("images", "labels"), ("imagesTr", "labelsTr"), ("images", "masks"))


def pair_in(folder: Path) -> tuple[Path, Path] | None:
    """The two folders, if they are there."""
    for images, labels in PAIRS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return folder / images, folder / labels
    return None


def read_folders(draft: Draft, images: Path, labels: Path) -> None:
    """Fill the draft; reads every label file when nothing names the labels."""
    apply_description(draft)
    found = draft.files_by_stem(images)
    label_files = draft.files_by_stem(labels)
    count = 0 if set(found) <= set(label_files) else _channels_by_name(found)
    if count:
        draft.complaints.clear()  # the same files are looked at again, channel by channel
        add_pairs(draft, images, labels, len(draft.channels) or count)
    else:
        refused = {complaint.case for complaint in draft.complaints}
        for name, file in found.items():
            draft.add(Case(name, (file,), label_files.get(name)))
            if name not in label_files and name not in refused:
                warn_unlabelled(draft, name, labels)
        for name in sorted(set(label_files) - set(found) - refused):
            complain_no_image(draft, name, label_files[name], images)
    discover_channels(draft)
    discover_labels(draft)


def _channels_by_name(found: dict[str, Path]) -> int:
    """How many channels the names tell of; 0 unless every name ends in a channel number and every case has 0000."""
    matches = [re.fullmatch(r"(.+)_(\d{4})", stem) for stem in found]
    pairs = {(match[1], int(match[2])) for match in matches if match}
    if not found or len(pairs) < len(found) or any((name, 0) not in pairs for name, _ in pairs):
        return 0
    return 1 + max(number for _, number in pairs)
