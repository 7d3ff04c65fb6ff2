"""The torture set read by medseg, by SimpleITK's series reader and by dicom2nifti: a table for .github/dicom.md.

    python tests/benchmarks/dicom_readers.py [dicom2nifti=/path/to/dicom2nifti] [output=table.md]

Each folder is judged by its voxels (``tests/messy_dicom.py``): *right* means that every volume that the reader gives is
complete and lies where its headers say; *refused* that it says no and gives nothing wrong; *wrong* that it gives a
volume that is wrong and says nothing; *crashed* that it ends by an error of its own. Warnings on stderr do not count:
nobody reads them in a batch.
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
    """Its documented way: the series of each folder, their files in GDCM's order."""
    volumes = []
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place)):
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid))
            try:
                image = reader.Execute()
            except RuntimeError:
                continue
            array = sitk.GetArrayFromImage(image)
            affine = np.eye(4)
            affine[:3, :3] = np.reshape(image.GetDirection()[:9], (3, 3)) * image.GetSpacing()[:3]
            affine[:3, 3] = image.GetOrigin()[:3]
            volumes.append((array, LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]))
    return volumes


def by_dicom2nifti(program: str) -> Callable[[Path], Volumes]:
    """Its command line, without reorientation."""

    def read(folder: Path) -> Volumes:
        with tempfile.TemporaryDirectory() as output:
            done = subprocess.run(
                [program, "-C", "-r", str(folder), output], check=False, capture_output=True, text=True, timeout=300
            )
            volumes = []
            for file in sorted(Path(output).rglob("*.nii*")):
                image = nibabel.load(file)
                array = np.asarray(image.dataobj)
                parts = [array] if array.ndim == 3 else [array[..., t] for t in range(array.shape[3])]
                volumes += [(part, image.affine) for part in parts]
            told = done.stderr + done.stdout
            if not volumes and "Traceback" in told and "ConversionValidationError" not in told:
                raise RuntimeError(told.strip().splitlines()[-1])
            return volumes

    return read


def judge(read: Callable[[Path], Volumes], folder: Path, slices: Slices) -> tuple[str, str]:
    """The outcome, and what was wrong."""
    try:
        volumes = read(folder)
    except Exception as error:
        return "crashed", type(error).__name__
    problems = [problem for array, affine in volumes if (problem := misreading(np.asarray(array), affine, slices))]
    if problems:
        return "wrong", problems[0]
    return ("right", "") if volumes else ("refused", "")


def rows(readers: dict[str, Callable[[Path], Volumes]]) -> Iterator[tuple[str, list[str]]]:
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "in"
            slices = case.write(folder)
            found = [judge(read, folder, slices) for read in readers.values()]
            yield name, [f"{outcome}: {why}" if why else outcome for outcome, why in found]


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    readers: dict[str, Callable[[Path], Volumes]] = {"medseg": by_medseg, "SimpleITK": by_simpleitk}
    if "dicom2nifti" in given:
        readers["dicom2nifti"] = by_dicom2nifti(given["dicom2nifti"])
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    table = list(rows(readers))
    lines = ["| folder | " + " | ".join(readers) + " |", "|---" * (len(readers) + 1) + "|"]
    lines += ["| " + " | ".join([name, *cells]) + " |" for name, cells in table]
    for outcome in ("right", "refused", "wrong", "crashed"):
        counts = [sum(cells[index].startswith(outcome) for _, cells in table) for index in range(len(readers))]
        lines.append("| " + " | ".join([f"**{outcome}**", *(f"**{count}**" for count in counts)]) + " |")
    text = "\n".join(lines) + "\n"
    if "output" in given:
        Path(given["output"]).write_text(text)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
