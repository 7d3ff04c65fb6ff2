"""Medical Segmentation Decathlon: a ``dataset.json`` that lists training pairs and test images.

A 4D file holds several channels. Datasets of nnU-Net 1 have the same list but one file ``X_0000.nii.gz`` per channel;
both are read. Format: http://medicaldecathlon.com, arXiv 1902.09063.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from medseg.cases.case import Case
from medseg.cases.dataset_json import channels_of, labels_of
from medseg.cases.draft import Draft
from medseg.images.formats import stem_of


def read_decathlon(draft: Draft, content: dict[str, Any], path: Path) -> None:
    """Fill the draft. Cases are the pairs of which both files are there; images alone become unlabelled."""
    draft.name = str(content.get("name") or "")
    draft.channels, draft.labels = channels_of(content, path), labels_of(content, path)
    for entry in content["training"]:
        pair = entry if isinstance(entry, dict) else {}
        image, labels = _inside(draft, pair.get("image")), _inside(draft, pair.get("label"))
        if image is None or labels is None:
            draft.complain(
                "",
                "bad-list-entry",
                f'{path.name}: each entry of "training" should be {{"image": FILE, "label": FILE}} with files inside '
                f"{draft.folder}, but one is {entry!r}.",
                "Correct the entry.",
                path,
            )
        elif not image.name.startswith("."):
            draft.add(_case(draft, image, labels), labels_may_lack=True)
    _read_test(draft, content)


def _read_test(draft: Draft, content: dict[str, Any]) -> None:
    listed = content.get("test")
    for entry in listed if isinstance(listed, list) else []:
        image = _inside(draft, entry.get("image") if isinstance(entry, dict) else entry)
        if image is None or image.name.startswith("."):
            continue
        case = _case(draft, image, None)
        if all(file.is_file() for file in case.images):  # test images are often not downloaded; nothing needs them
            draft.add(case)


def _case(draft: Draft, image: Path, labels: Path | None) -> Case:
    """One 3D or 4D file, or one file per channel where only those are there."""
    name = stem_of(image)
    ending = image.name[len(name) :]
    channels = tuple(image.with_name(f"{name}_{index:04d}{ending}") for index in range(len(draft.channels)))
    return Case(name, channels if not image.exists() and channels[0].exists() else (image,), labels)


def _inside(draft: Draft, written: Any) -> Path | None:
    """A listed path, which must stay in the dataset's folder: these lists are downloaded."""
    if not isinstance(written, str) or not written:
        return None
    relative = PurePosixPath(written)
    return None if relative.is_absolute() or ".." in relative.parts else draft.folder / relative
