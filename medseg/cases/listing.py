"""``dataset.yaml`` and CSV: lists of images, labels and patients, with paths relative to the list.

``dataset.yaml`` is medseg's own format: it holds everything a Dataset is, and is what a workspace keeps. A CSV has the
columns ``case``, ``image`` (or ``image_0``, ``image_1``, ...), ``labels``, ``patient``, ``stratum`` and ``split``; the
last four may be absent.
Labels, regions that join them (in the order of writing) and the value of voxels that nobody annotated are::

    labels: {oedema: 1, necrosis: 2, enhancing: 3}
    regions:
      whole tumour: [oedema, necrosis, enhancing]
      tumour core: [necrosis, enhancing]
      enhancing tumour: [enhancing]
    ignore: 255
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.discovery import discover_channels, discover_labels
from medseg.cases.draft import Draft
from medseg.cases.labels import Label, LabelTable
from medseg.cases.regions import Region, own_value
from medseg.documents import Document, Record, read_text
from medseg.errors import DatasetError, MedsegError


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    return [{"name": name, "value": number} for name, number in value.items()] if isinstance(value, dict) else value


def _joined(value: Any) -> Any:
    return [{"name": name, "labels": labels} for name, labels in value.items()] if isinstance(value, dict) else value


class ListedRegion(Region):
    """One Region of a ``dataset.yaml``."""

    written: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The value to write for it; by default that of its first label that no later region joins."""


class ListedCase(Record):
    """One Case of a ``dataset.yaml``."""

    name: str
    """Letters, digits, dots, dashes and underscores; quote a name that looks like a number."""
    images: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
    """Files in channel order; a file may hold several channels."""
    labels: str | None = None
    """The label file; without one the Case is unlabelled."""
    patient: str | None = None
    """Cases of one patient are never split over folds."""
    stratum: str | None = None
    """Such as the scanner; with ``stratify=true`` every fold gets its share of each."""
    split: Literal["training", "test"] = "training"
    """test: never trained on, nor measured; ``medseg test`` scores a model on these."""


class Listing(Document):
    """A Dataset as a document. Without ``cases`` it only names the channels and labels of the files beside it."""

    kind: ClassVar[str] = "dataset"
    error: ClassVar[type[MedsegError]] = DatasetError

    name: str | None = None
    """The folder's name where none is given."""
    channels: tuple[str, ...] | None = None
    """Names in order; 'CT' lets nnU-Net's rules treat intensities as Hounsfield units."""
    labels: Annotated[tuple[Label, ...] | None, BeforeValidator(_pairs)] = None
    """name, value, and optionally color and code, of each structure; or simply ``liver: 1``."""
    regions: Annotated[tuple[ListedRegion, ...], BeforeValidator(_joined)] = ()
    """name, labels, and optionally written, color and code, of each region; or simply ``kidney: [cortex, cyst]``."""
    ignore: int | None = None
    """The value of voxels that nobody has annotated."""
    cases: tuple[ListedCase, ...] | None = None
    """The Cases; where there are none, the folder is looked through."""


def load_listing(path: Path) -> Listing:
    """Read a ``dataset.yaml`` or ``labels.yaml``; people may leave out ``kind`` and ``format``. Raises DatasetError."""
    try:
        content = yaml.load(read_text(path, DatasetError), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError as error:
        raise DatasetError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path} should hold 'channels', 'labels' and 'cases', but holds {type(content).__name__}.")
    kind, number = content.pop("kind", Listing.kind), content.pop("format", Listing.format)
    if kind not in (Listing.kind, LabelTable.kind) or number != Listing.format:
        raise DatasetError(
            f"{path} should be a dataset of format {Listing.format}, but says kind {kind!r}, format {number!r}."
        )
    return Listing.validated(content, str(path))


def read_label_table(path: Path) -> LabelTable:
    """The labels, regions and ignore value in a ``labels.yaml`` or ``dataset.yaml``. Raises DatasetError."""
    listing = load_listing(path)
    if listing.labels is None:
        raise DatasetError(f"{path} names no labels. Add them, such as labels: {{liver: 1, tumour: 2}}.")
    return table_of(listing, str(path))


def read_listing(draft: Draft, listing: Listing) -> None:
    """Fill the draft from a ``dataset.yaml`` with cases."""
    _describe(draft, listing)
    for case in listing.cases or ():
        labels = draft.folder / case.labels if case.labels else None
        images = tuple(draft.folder / image for image in case.images)
        draft.add(Case(case.name, images, labels, case.patient, case.stratum, case.split))
    discover_channels(draft)
    discover_labels(draft)


def apply_description(draft: Draft) -> None:
    """Take names of channels and labels from a ``dataset.yaml`` without cases, or a ``labels.yaml``, if there."""
    for name in ("dataset.yaml", "labels.yaml"):
        path = draft.folder / name
        if path.is_file():
            _describe(draft, load_listing(path), str(path))


def _describe(draft: Draft, listing: Listing, where: str = "") -> None:
    draft.name = draft.name or listing.name or ""
    draft.channels = draft.channels or listing.channels or ()
    if draft.labels is None and (listing.labels is not None or listing.regions or listing.ignore is not None):
        draft.labels = table_of(listing, where or str(draft.folder))


def table_of(listing: Listing, where: str) -> LabelTable:
    """The labels, regions and ignore value that a Listing names. Raises DatasetError naming ``where`` it stands."""
    if listing.labels is None:
        raise DatasetError(f"{where}: 'regions' and 'ignore' need 'labels' beside them, such as labels: {{liver: 1}}.")
    values = {label.name: label.value for label in listing.labels}
    regions = []
    try:
        for number, region in enumerate(listing.regions):
            later = [other.labels for other in listing.regions[number + 1 :]]
            written = own_value(region.labels, later, values) if region.written is None else region.written
            regions.append(region.model_dump() | {"written": written})
    except ValueError as error:
        raise DatasetError(f"{where}: {error}.") from None
    labels = [label.model_dump() for label in listing.labels]
    return LabelTable.validated({"labels": labels, "regions": regions, "ignore": listing.ignore}, where)


def read_table(draft: Draft, path: Path) -> None:
    """Fill the draft from a CSV; names of channels and labels as ``apply_description`` finds them."""
    apply_description(draft)
    columns, rows = _rows(path)
    images = _image_columns(columns)
    unknown = sorted(set(columns) - {"case", "labels", "patient", "stratum", "split", *images})
    if "case" not in columns or not images or unknown:
        raise DatasetError(
            f"{path} should have the columns case, image (or image_0, image_1, ...), labels, patient, stratum and "
            f"split, but has {', '.join(columns) or 'none'}{'; not known: ' + ', '.join(unknown) if unknown else ''}."
        )
    for number, cells in rows:
        files = [cells[column] for column in images]
        if all(files):
            labels = draft.folder / cells["labels"] if cells.get("labels") else None
            patient, stratum = cells.get("patient") or None, cells.get("stratum") or None
            split = _split(cells.get("split") or "training", path, number)
            draft.add(Case(cells["case"], tuple(draft.folder / x for x in files), labels, patient, stratum, split))
        elif any(cells.values()):
            draft.complain(
                cells["case"], "missing-file", f"{path.name}, line {number}: an image is not named.", "Name it.", path
            )
    discover_channels(draft)
    discover_labels(draft)


def _split(text: str, path: Path, line: int) -> Literal["training", "test"]:
    if text.lower() in {"training", "train"}:
        return "training"
    if text.lower() == "test":
        return "test"
    raise DatasetError(f"{path.name}, line {line}: split should be training or test, but is '{text}'.")


def lists_cases(path: Path) -> bool:
    """Whether a CSV means to be a list of Cases, by its columns. Raises DatasetError when it is no table."""
    columns = [column.lower() for column in _rows(path)[0]]
    return "case" in columns or bool(_image_columns(columns))


def _image_columns(columns: Sequence[str]) -> list[str]:
    """``image``, or ``image_0``, ``image_1``, ... in the order of their numbers."""
    numbered = sorted((x for x in columns if re.fullmatch(r"image_\d+", x)), key=lambda x: int(x.partition("_")[2]))
    return ["image"] if "image" in columns else numbered


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """(columns, (line number, cells) of each row); comma, semicolon or tab, whichever the header has most of."""
    text = read_text(path, DatasetError).removeprefix("\ufeff")
    header = text.splitlines()[0] if text.strip() else ""
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count), restkey="", restval="")
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        rows = [
            (reader.line_num, {key.strip(): value.strip() for key, value in row.items() if isinstance(value, str)})
            for row in reader
        ]
    except csv.Error as error:
        raise DatasetError(f"{path} is not readable as a table: {error}. Save it as CSV in UTF-8.") from None
    return columns, rows


def save_listing(dataset: Dataset, path: Path) -> None:
    """Write ``dataset.yaml``: paths inside its folder relative to it, others absolute."""
    # Made absolute, but not resolved: a link inside the folder is meant to stay one.
    folder = Path(path).absolute().parent

    def written(file: Path) -> str:
        place = file.absolute()
        return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)

    listed = [
        ListedCase(
            name=case.name,
            images=tuple(written(image) for image in case.images),
            labels=written(case.labels) if case.labels else None,
            patient=case.patient,
            stratum=case.stratum,
            split=case.split,
        )
        for case in (*dataset.cases, *dataset.test, *dataset.unlabelled)
    ]
    Listing(
        name=dataset.name,
        channels=dataset.channels,
        labels=dataset.labels.labels,
        regions=tuple(ListedRegion(**region.model_dump()) for region in dataset.labels.regions),
        ignore=dataset.labels.ignore,
        cases=tuple(listed),
    ).save(path)
