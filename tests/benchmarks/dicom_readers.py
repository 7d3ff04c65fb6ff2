"""The torture set read by medseg, by SimpleITK's series reader and by dicom2nifti: a table for .github/dicom.md.

    python tests/benchmarks/dicom_readers.py [dicom2nifti=/path/to/python/that/has/it] [output=table.md]

Each folder is judged by its voxels (``tests/messy_dicom.py``): *right* means that every volume that the reader gives is
complete and lies where its headers say; *refused* that it gives nothing, by an error that it has for this; *wrong* that
it gives a volume that is wrong; *crashed* that it gives nothing because of an error that it does not expect. Warnings
on stderr do not count: nobody reads them in a batch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parents[1]))

from medseg.errors import MedsegError
from medseg.images.dicom.intake import take_in

from messy_dicom import CASES, Slices, misreading

Volumes = list[tuple[np.ndarray, np.ndarray]]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def by_medseg(folder: Path) -> Volumes:
    """What it accepts; refused if that is nothing."""
    volumes = []
    for series in take_in(folder).series:
        try:
            volume = series.read()
        except MedsegError:
            continue
        volumes.append((volume.array[0], volume.affine))
    return volumes


def by_simpleitk(folder: Path) -> Volumes:
    """Its documented way: every series of the folder and those inside it, their files in GDCM's order."""
    volumes = []
    places = (folder, *(path for path in folder.rglob("*") if path.is_dir()))
    for uid in dict.fromkeys(x for place in places for x in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place))):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid, recursive=True))
        try:
            image = reader.Execute()
        except RuntimeError:
            continue
        array, dimensions = sitk.GetArrayFromImage(image), image.GetDimension()
        affine = np.eye(4)
        direction = np.reshape(image.GetDirection(), (dimensions, dimensions))[:3, :3]
        affine[:3, :3] = direction * image.GetSpacing()[:3]
        affine[:3, 3] = image.GetOrigin()[:3]
        parts = [array] if dimensions == 3 else list(array)
        volumes += [(part, LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]) for part in parts]
    return volumes


def by_dicom2nifti(python: str, root: Path) -> Callable[[Path], Volumes]:
    """Its ``convert_directory`` on every folder, in a process of another environment."""
    output = root.with_name("dicom2nifti")
    subprocess.run([python, "-c", _CONVERT, str(root), str(output)], check=True, capture_output=True, timeout=900)

    def read(folder: Path) -> Volumes:
        own = output / folder.name
        volumes = []
        for file in sorted(own.glob("*.nii*")):
            image = nibabel.load(file)
            array = np.asarray(image.dataobj)
            parts = [array] if array.ndim == 3 else [array[..., t] for t in range(array.shape[3])]
            volumes += [(part, image.affine) for part in parts]
        told = (own / "told.txt").read_text()
        last = next((line for line in reversed(told.splitlines()) if "Error" in line), "")
        if not volumes and "Traceback" in told and "Conversion" not in last:
            raise RuntimeError(last.split(":")[0])
        return volumes

    return read


_CONVERT = """
import contextlib, io, logging, pathlib, sys, traceback
import dicom2nifti

logging.basicConfig(stream=io.StringIO())
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    own = pathlib.Path(sys.argv[2]) / folder.name
    own.mkdir(parents=True)
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
        try:
            dicom2nifti.convert_directory(str(folder), str(own), compression=False, reorient=False)
        except Exception:
            traceback.print_exc()
    (own / "told.txt").write_text(told.getvalue())
"""


def judge(read: Callable[[Path], Volumes], folder: Path, slices: Slices) -> tuple[str, str]:
    """The outcome, and what was wrong."""
    try:
        volumes = read(folder)
    except Exception as error:
        return "crashed", str(error)
    problems = [problem for array, affine in volumes if (problem := misreading(np.asarray(array), affine, slices))]
    if problems:
        return "wrong", problems[0]
    return ("right", "") if volumes else ("refused", "")


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "folders"
        slices = [case.write(root / f"{number:03d}") for number, case in enumerate(CASES.values())]
        readers: dict[str, Callable[[Path], Volumes]] = {"medseg": by_medseg, "SimpleITK": by_simpleitk}
        if "dicom2nifti" in given:
            readers["dicom2nifti"] = by_dicom2nifti(given["dicom2nifti"], root)
        table = [
            (name, [judge(read, root / f"{number:03d}", slices[number]) for read in readers.values()])
            for number, name in enumerate(CASES)
        ]
    text = "\n".join(lines_of(table, list(readers))) + "\n"
    if "output" in given:
        Path(given["output"]).write_text(text)
    print(text)


def lines_of(table: list[tuple[str, list[tuple[str, str]]]], readers: list[str]) -> Iterator[str]:
    """Markdown."""
    yield "| folder | " + " | ".join(readers) + " |"
    yield "|---" * (len(readers) + 1) + "|"
    for name, cells in table:
        shown = [f"{outcome}: {why}" if why else outcome for outcome, why in cells]
        yield "| " + " | ".join([name, *shown]) + " |"
    for outcome in ("right", "refused", "wrong", "crashed"):
        counts = [sum(cells[place][0] == outcome for _, cells in table) for place in range(len(readers))]
        yield "| " + " | ".join([f"**{outcome}**", *(f"**{count}**" for count in counts)]) + " |"


if __name__ == "__main__":
    main(sys.argv[1:])
