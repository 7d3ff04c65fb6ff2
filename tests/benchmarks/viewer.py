"""How long a reader of the viewer waits: for the first picture of a case, and for the next slice; small and large.

    python tests/benchmarks/viewer.py [large]

Draws a phantom of 64x96x96 voxels, and with ``large`` one of 600x512x512 (1 GB of disk, 3 GB of memory). Each step is
what the page does on the server: preparing once, opening from the cache in a new process, three planes, one plane after
a turn of the wheel, encoding included. Prints medians as time on the clock and as time of the processor, which a busy
machine does not change, and the largest memory of each process, mapped pages included.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg.cases.labels import Label, LabelTable
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume
from medseg.review.cache import open_case
from medseg.review.case import Finding, ReviewCase
from medseg.review.slices import PLANES
from medseg.review.view import View, draw_plane
from medseg.review.windows import windows_of

SHAPES = {"small": (64, 96, 96), "large": (600, 512, 512)}
TABLE = LabelTable(labels=(Label(name="organ", value=1), Label(name="lesion", value=2)))
STEPS = 15


class Clock:
    """What has passed since the last question."""

    def __init__(self) -> None:
        self._clock, self._work = time.perf_counter(), time.process_time()

    def told(self, what: str) -> dict[str, float]:
        """Milliseconds on the clock, and of the processor."""
        clock, work = time.perf_counter(), time.process_time()
        found = {f"{what}, ms": 1e3 * (clock - self._clock), f"{what}, ms of work": 1e3 * (work - self._work)}
        self._clock, self._work = clock, work
        return found


def draw(folder: Path, shape: tuple[int, int, int]) -> None:
    """Smooth noise in a body, one organ and one lesion, as whole Hounsfield units."""
    random = np.random.default_rng(0)
    affine = np.array([[0, 0, 0.8, 0], [0, 0.8, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(np.broadcast_to(np.float32(0), (1, *shape)), affine)
    _, y, x = np.ogrid[:1, : shape[1], : shape[2]]
    body = ((y / shape[1] - 0.5) ** 2 + (x / shape[2] - 0.5) ** 2)[0] < 0.2
    image = np.empty((1, *shape), np.float32)
    for plane in image[0]:
        plane[:] = np.where(body, random.integers(0, 120, body.shape), -1000)
    labels = np.zeros(shape, np.uint8)
    z, y, x = (extent // 4 for extent in shape)
    labels[z : 3 * z, y : 2 * y, x : 2 * x], labels[2 * z, y + 2 : y + y // 4, x + 2 : x + x // 4] = 1, 2
    write_image(folder / "ct.nii.gz", image, volume)
    write_labels(folder / "labels.nii.gz", labels, volume)


def the_case(folder: Path) -> ReviewCase:
    """The phantom as the worklist knows it."""
    return ReviewCase("ct", (folder / "ct.nii.gz",), ("CT",), (Finding("f", folder / "labels.nii.gz", TABLE),))


def prepare(folder: Path) -> dict[str, float]:
    """The first time: everything is made."""
    clock = Clock()
    one = open_case(the_case(folder), folder / "cache")
    found = clock.told("prepare image")
    one.viewer_labels(one.case.findings[0])
    return {**found, **clock.told("prepare labels"), **memory()}


def look(folder: Path) -> dict[str, float]:
    """Every later time: open, draw, scroll."""
    clock = Clock()
    one = open_case(the_case(folder), folder / "cache")
    window = next(iter(windows_of("CT", one.sample(0)).values()))
    middle = tuple(extent // 2 for extent in one.shape)
    view = View(window, middle, finding=one.case.findings[0])
    for plane in PLANES:
        encode(draw_plane(one, view, plane, 760))
    found = clock.told("first picture")
    for axis, plane in enumerate(PLANES):
        times: list[dict[str, float]] = []
        clock.told("")
        for step in range(STEPS):
            place = list(middle)
            place[axis] += step - STEPS // 2
            encode(draw_plane(one, View(window, tuple(place), finding=view.finding), plane, 760))
            times.append(clock.told(f"next {plane}"))
        found |= {key: float(np.median([one[key] for one in times])) for key in times[0]}
    return found | memory()


def encode(picture: np.ndarray) -> bytes:
    """As ``apps/viewer/picture.py`` does."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue()


def memory() -> dict[str, float]:
    """Of this process, mapped pages included."""
    return {"memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def main() -> None:
    """Each measurement is a process of its own."""
    if len(sys.argv) == 3 and sys.argv[1] in ("prepare", "look", "draw"):
        folder = Path(sys.argv[2])
        steps = {"prepare": prepare, "look": look, "draw": lambda at: draw(at, SHAPES[at.name]) or {}}
        sys.stdout.write(json.dumps(steps[sys.argv[1]](folder)) + "\n")
        return
    for name in ("small", *sys.argv[1:]):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / name
            folder.mkdir()
            for step in ("draw", "prepare", "look"):
                told = subprocess.run(
                    [sys.executable, __file__, step, str(folder)], check=True, capture_output=True, text=True
                )
                rows = json.loads(told.stdout)
                sys.stdout.writelines(f"{name:<8}{key:<28}{value:10.1f}\n" for key, value in rows.items())
                sys.stdout.flush()


if __name__ == "__main__":
    main()
