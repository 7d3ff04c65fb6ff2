"""The viewer as its users meet it: a phantom whose sides can be told apart, ``medseg view``, and Debian's chromium."""

import io
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import make_folds
from medseg.cases.formats import save_dataset
from medseg.cli import main
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume

from tiny import TABLE, write_untrained_model

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SHAPE = (20, 32, 28)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


def write_viewed_workspace(folder: Path, cases: int = 3) -> Path:
    """A workspace of two folds with random weights, and what they predict for the first case, with maps of uncertainty.

    In each patient a bright ball (structure 1) lies on the right and a dark box (2) on the left; the files are stored
    with x towards the left, so that a viewer which shows arrays as they are has them on the wrong sides.
    """
    listed = [_write_case(folder / "data", f"case_{number}") for number in range(cases)]
    dataset = Dataset("viewed", ("CT",), TABLE, tuple(listed))
    workspace, other = write_untrained_model(folder / "W"), write_untrained_model(folder / "other", seed=1)
    shutil.copytree(other / "3d_fullres/fold_0", workspace / "3d_fullres/fold_1")
    save_dataset(dataset, workspace / "dataset.yaml")
    make_folds(dataset).save(workspace / "folds.yaml")
    words = [
        f"model={workspace}",
        f"input={listed[0].images[0]}",
        f"output={folder / 'P'}",
        "uncertainty=ensemble",
        "quality=fast",
    ]
    assert main(["predict", *words]) == 0
    return workspace


def _write_case(folder: Path, name: str) -> Case:
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels = np.zeros(SHAPE, np.uint8)
    labels[((z - 10) ** 2 + (y - 15) ** 2 + (x - 7) ** 2) < 25] = 1
    labels[6:15, 10:22, 18:24] = 2
    image = np.random.default_rng(0).normal(40, 10, SHAPE) + 200 * (labels == 1) - 100 * (labels == 2)
    # Towards the patient's left, back and head: x of index 0 is the rightmost.
    affine = np.array([[0, 0, -1.0, 14], [0, -1.0, 0, 16], [1.0, 0, 0, -10], [0, 0, 0, 1]])
    volume = Volume(np.rint(image)[None].astype(np.float32), affine)
    case = Case(name, (folder / "images" / f"{name}.nii.gz",), folder / "labels" / f"{name}.nii.gz")
    write_image(case.images[0], volume.array, volume)
    assert case.labels is not None
    write_labels(case.labels, labels, volume)
    return case


@contextmanager
def viewed(*words: str) -> Iterator[str]:
    """The address of a running ``medseg view``, which ends by SIGTERM with exit code 0."""
    command = [sys.executable, "-m", "medseg", "view", "port=0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            found = re.search(r"Open (https?://\S+) in a browser", line)
            if found:
                yield found[1]
                break
        else:
            raise AssertionError(said)
    finally:
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert "Traceback" not in said


def settled(page: Page) -> None:
    """Wait until the page has nothing left to do."""
    page.wait_for_timeout(300)
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def grey(png: bytes) -> np.ndarray:
    """The brightness (rows, columns) of a screenshot, 0 to 1, where nothing is coloured; coloured pixels are 0.5."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float) / 255
    coloured = pixels.max(axis=2) - pixels.min(axis=2) > 0.1
    return np.where(coloured, 0.5, pixels.mean(axis=2))


def column_of(where: np.ndarray) -> float:
    """The mean column of a mask as a share of its width: 0 is the left edge, 1 the right one."""
    assert where.any()
    return float(np.nonzero(where)[1].mean() / where.shape[1])
