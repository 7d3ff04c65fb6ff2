"""Real MR series: every voxel comes back, an independent validator is content, a real model finds its structures."""

import csv
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from medseg.cases.labels import Label, LabelTable
from medseg.cli import main
from medseg.dicom.origin import Origin
from medseg.dicom.outputs import FILES, Found, write_outputs
from medseg.dicom.study import studies_of
from medseg.images.dicom.intake import take_in
from medseg.images.formats import read_labels

pytestmark = pytest.mark.real
TABLE = LabelTable(labels=tuple(Label(name=name, value=k) for k, name in enumerate(("left kidney", "tumour", "x"), 1)))


def errors(path: Path) -> list[str]:
    if not shutil.which("dciodvfy"):
        return []
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], check=False, capture_output=True, text=True, errors="replace"
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_every_series_carries_a_segmentation_that_reads_back_voxel_for_voxel(real_data, tmp_path):
    intake = take_in(real_data / "dicom")
    assert len(intake.series) >= 4
    for series in intake.series:
        image = series.read()
        z, y, x = np.indices(image.shape)
        labels = ((z // 3 + y // 64 + x // 96) % 4).astype(np.uint8)
        folder = tmp_path / series.name
        folder.mkdir()
        found = Found(series, series.read_headers(), image, ("MR",), labels, TABLE, Origin("test", "0" * 64),
                      np.ones(image.shape, np.float32))  # fmt: skip
        for kind in ("BINARY", "LABELMAP"):
            write_outputs(folder, found, ("seg", "sr", "pmap", "rtstruct") if kind == "BINARY" else ("seg",), kind)
            frames = hd.seg.segread(folder / FILES["seg"]).get_pixels_by_source_instance(
                [one.uid for one in series.slices], combine_segments=True, assert_missing_frames_are_empty=True
            )
            assert np.array_equal(frames, labels), (series.name, kind)
            if kind == "BINARY":
                assert {path.name: errors(path) for path in folder.glob("*.dcm")} == {
                    path.name: [] for path in folder.glob("*.dcm")
                }


def test_the_hippocampus_model_segments_both_crops(real_data, tmp_path):
    assert main(["import", f"nnunet={real_data / 'nnunet_model' / 'model'}", f"output={tmp_path / 'model'}"]) == 0
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("Study1/13_HCropVolume", "Study3/11_HCropVolume")):
        shutil.copytree(real_data / "dicom" / name, tmp_path / "in" / str(number))
    words = [f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", f"model={tmp_path / 'model'}", "device=cpu"]
    assert main(["dicom", *words]) == 0
    studies = studies_of(take_in(tmp_path / "in"))
    assert len(studies) == 2
    folders = [path.parent for path in (tmp_path / "out").glob("[!.]*/study.json")]
    for folder in folders:
        with (folder / FILES["csv"]).open() as stream:
            volumes = {row["structure"]: float(row["volume_ml"]) for row in csv.DictReader(stream)}
        # Of both parts of a hippocampus, 1 to 2.5 mL each is what the dataset it was trained on has.
        assert all(0.8 < volumes[name] < 3 for name in ("anterior", "posterior"))
        assert {name: errors(folder / name) for name in (FILES["seg"], FILES["sr"])} == {
            FILES["seg"]: [],
            FILES["sr"]: [],
        }
        assert (folder / FILES["png"]).stat().st_size > 50_000
    centres = {folder.name: _centres(folder) for folder in folders}
    # Anterior lies in front: y grows towards anterior in RAS+.
    assert all(anterior > posterior + 10 for anterior, posterior in centres.values())


def _centres(folder: Path) -> tuple[float, float]:
    """The y of both parts, in millimetres."""
    labels = read_labels(folder / FILES["nifti"])
    y = [(labels.affine @ np.append(np.argwhere(labels.array == value).mean(0), 1))[1] for value in (1, 2)]
    return float(y[0]), float(y[1])
