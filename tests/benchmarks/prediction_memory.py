"""Peak memory of predicting 512x512x600 voxels with 118 classes, estimate and measurement, within max_memory=.

    python tests/benchmarks/prediction_memory.py [max_memory_gb=6] [shape=600,512,512] [classes=118] [check=1]

The network is a single convolution: what is measured is everything around it. The image has a spacing of 1 x 0.8 x 0.8
mm and is predicted at 1.5 mm, as TotalSegmentator does. Linux only (reads /proc). With check=1 it is predicted once
more, every class of every row brought to the file's grid before the largest is taken, and differing voxels are counted.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from medseg.cases.case import Case
from medseg.images.formats import write_image
from medseg.images.volume import Volume
from medseg.inference.options import Options
from medseg.inference.predict import predict_case, predict_together
from medseg.progress import Silent

from tiny_networks import model_of


class Peak:
    """Largest resident memory, sampled: of the program's own (anonymous) pages, and with mapped files."""

    def __init__(self) -> None:
        self.own, self.all, self._stop = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            own, everything = resident()
            self.own, self.all = max(self.own, own), max(self.all, everything)


def resident() -> tuple[int, int]:
    """Bytes in memory: the program's own, and with mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, files = (int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return own, own + files


def image_file(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A body of smooth noise in air, written plane by plane so that making it takes little memory."""
    coarse = np.random.default_rng(0).normal(size=[n // 16 + 2 for n in shape]).astype(np.float32)
    array = np.empty(shape, np.float32)
    for z in range(shape[0]):
        plane = coarse[z // 16].repeat(16, 0).repeat(16, 1)[: shape[1], : shape[2]]
        array[z] = np.where(np.hypot(*np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]) < 0.8, plane, -3)
    path = folder / "large.nii"
    affine = np.array([[0, 0, 0.8, 0], [0, 0.8, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    write_image(path, array, Volume(array, affine))
    return path


def main(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    limit = float(given.get("max_memory_gb", 6)) * 1e9
    z, y, x = (int(n) for n in given.get("shape", "600,512,512").split(","))
    classes, patch = int(given.get("classes", 118)), int(given.get("patch", 128))
    model = model_of(classes, (patch, patch, patch), (1.5, 1.5, 1.5))
    if "folder" in given:
        Path(given["folder"]).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.get("folder")) as folder:
        path = image_file(Path(folder), (z, y, x))
        own_before, before = resident()
        options = Options.of("fast", torch.device("cpu"), max_memory=int(limit), scratch=Path(folder))
        started, cpu = time.monotonic(), time.process_time()
        estimates = []
        with Peak() as peak:
            found = predict_case(Case("large", (path,)), model, options, Silent(), estimates.append)
        print(f"{z}x{y}x{x} voxels, {classes} classes, tiles of {patch}; program before: {before / 1e9:.2f} GB")
        print(f"estimate beyond it: {estimates[0]}")
        seconds = f"{time.process_time() - cpu:.0f} s of the processor, {time.monotonic() - started:.0f} s in all"
        own, all_pages = (peak.own - own_before) / 1e9, (peak.all - before) / 1e9
        print(f"measured beyond it: {own:.2f} GB, {all_pages:.2f} GB with mapped files; {seconds}")
        print(f"classes found: {len(np.unique(found.indices))}", flush=True)
        if given.get("check"):
            (slowly,) = predict_together(found.image, [model], [[0]], options)
            print(f"voxels that differ from resampling every class: {int((slowly != found.indices).sum())}")


if __name__ == "__main__":
    main(sys.argv[1:])
