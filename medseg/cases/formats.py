"""Which layout a folder or file has, and the Dataset in it.

Understood: Medical Segmentation Decathlon, nnU-Net raw, a ``dataset.yaml``, a CSV, a pair of folders, DICOM studies.
Each has a module of its own that fills a Draft; the same data gives the same Dataset in all of them.
"""

from __future__ import annotations

from pathlib import Path

from medseg.cases.dataset import Dataset
from medseg.cases.dataset_json import read_dataset_json
from medseg.cases.decathlon import read_decathlon
from medseg.cases.dicom_studies import read_dicom
from medseg.cases.draft import Draft
from medseg.cases.folders import pair_in, read_folders
from medseg.cases.listing import lists_cases, load_listing, read_listing, read_table, save_listing
from medseg.cases.nnunet_raw import read_nnunet_raw
from medseg.errors import DatasetError
from medseg.images.formats import find_dicom

LAYOUTS = """\
  - dataset.yaml that lists cases: name, channels, labels, cases
  - dataset.csv with the columns case, image (or image_0, image_1, ...), labels, patient
  - Medical Segmentation Decathlon: dataset.json with a "training" list
  - nnU-Net raw: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz
  - images/ and labels/ with files of the same names
  - DICOM studies whose labels are DICOM-SEG or RTSTRUCT"""


def read_dataset(path: Path) -> Dataset:
    """The Dataset in a folder or file; files are looked for, images are not read.

    Cases come in ascending order of name; file paths are absolute. Labels that nothing names are 'label 1', ... after
    the values in the label files, which are read for it. Raises DatasetError with every complaint at once.
    """
    return find_dataset(path).dataset()


def find_dataset(path: Path) -> Draft:
    """The same with complaints kept instead of raised. Raises DatasetError where no layout is understood at all."""
    path = Path(path).resolve()
    if path.is_dir():
        draft = Draft(path)
        _read_folder(draft)
    elif path.is_file():
        draft = Draft(path.parent)
        _read_file(draft, path)
    else:
        raise DatasetError(f"There is no dataset at {path}. Name a folder or file with dataset=DIR_OR_FILE.")
    if not draft.cases and not draft.complaints:
        draft.complain("", "no-cases", f"{path} holds no case with both image and labels.", "Add at least one.", path)
    elif draft.labels is not None and len(draft.labels) < 2 and not draft.complaints:
        draft.complain("", "no-labels", f"The labels in {path} name nothing but background.", "Add a structure.", path)
    return draft


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write a ``dataset.yaml`` that ``read_dataset`` reads back as the same Dataset."""
    save_listing(dataset, path)


def _read_folder(draft: Draft) -> None:
    folder = draft.folder
    tables = sorted(file for file in folder.glob("*.csv") if not file.name.startswith("."))
    pair = pair_in(folder)
    if pair is not None:  # then a table may be about something else, such as the patients' ages
        tables = [table for table in tables if lists_cases(table)]
    listing = load_listing(folder / "dataset.yaml") if (folder / "dataset.yaml").is_file() else None
    if listing is not None and listing.cases is not None:
        read_listing(draft, listing)
    elif (folder / "dataset.json").is_file():
        _read_file(draft, folder / "dataset.json")
    elif len(tables) == 1:
        read_table(draft, tables[0])
    elif len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise DatasetError(f"{folder} holds several tables: {names}. Name one with dataset=FILE.")
    elif pair is not None:
        read_folders(draft, *pair)
    elif find_dicom(folder) is not None:
        read_dicom(draft)
    else:
        raise DatasetError(f"{_found(folder)} Understood are:\n{LAYOUTS}")


def _read_file(draft: Draft, path: Path) -> None:
    if path.suffix in {".yaml", ".yml"}:
        listing = load_listing(path)
        if listing.cases is None:
            raise DatasetError(f"{path} lists no cases. Add 'cases:', or name the folder that holds images and labels.")
        read_listing(draft, listing)
    elif path.suffix in {".csv", ".tsv"}:
        read_table(draft, path)
    elif path.suffix == ".json":
        content = read_dataset_json(path)
        if isinstance(content.get("training"), list) and "file_ending" not in content:
            read_decathlon(draft, content, path)
        elif isinstance(content.get("dataset"), dict) or all(
            (draft.folder / name).is_dir() for name in ("imagesTr", "labelsTr")
        ):
            read_nnunet_raw(draft, content, path)
        else:
            raise DatasetError(
                f'{path} has neither a "training" list (Decathlon) nor imagesTr/ and labelsTr/ beside it (nnU-Net). '
                f"{_found(draft.folder)}"
            )
    else:
        raise DatasetError(f"{path} is not a dataset. Name a folder, a dataset.yaml, a CSV or a dataset.json.")


def _found(folder: Path) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"No known layout is found in {folder}, which holds {shown or 'nothing'}."
