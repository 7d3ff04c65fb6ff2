"""G1 to G6: the work of training and prediction on a device, as a share of the matrix product it can do.

Runs on any device, on a CPU in the smoke size to see that it runs at all; only a GPU's numbers mean something. The
work of a patch is counted in multiplications and additions from the shapes of the convolutions (two FLOP each), and
three times as much for a training step.
"""

from __future__ import annotations

import numpy as np

from medseg.benchmarking.contest import ours
from medseg.benchmarking.device_peak import network_flops, peak_flops
from medseg.benchmarking.material import Shape, write_plans
from medseg.benchmarking.other_contests import step_row
from medseg.benchmarking.prediction_contests import export_row, sliding_window_on
from medseg.benchmarking.result import Row
from medseg.benchmarking.setup import Setup

_LARGE = Shape((128, 128, 128), (32, 64, 128, 256, 320, 320))
_TINY = Shape((16, 16, 16), (4, 8))
_HIPPOCAMPUS = Shape((40, 56, 40), (32, 64, 128, 256), batch=9)


def training(setup: Setup) -> list[Row]:
    """G1: patches per second of a training step, and its share of the matrix product's peak."""
    return [_share(setup, row, shape, 3) for shape in _batches(setup) for row in [_step(setup, "G1", shape, "compile")]]


def forward(setup: Setup) -> list[Row]:
    """G2: the same for the forward pass alone."""
    rows = []
    for shape in _batches(setup):
        folder = setup.folder(f"G2_{shape.batch}")
        write_plans(folder, shape)
        request = {"folder": str(folder), "device": setup.device, "passes": setup.of(1, 10)}
        mine, _, _ = setup.compete(f"G2, batch {shape.batch}", ours("forwarding", request))
        work = f"forward pass, {'x'.join(map(str, shape.patch))}, batch {shape.batch}"
        row = Row(id="G2", work=work, ours=mine.median / setup.of(1, 10), memory=mine.memory, turns=(mine.seconds,))
        rows.append(_share(setup, row, shape, 1))
    return rows


def small_patches(setup: Setup) -> list[Row]:
    """G3: a network so small that starting kernels decides: as it is, compiled, and as one recorded graph."""
    shape = setup.of(_TINY, _HIPPOCAMPUS)
    modes = setup.of(("eager",), ("eager", "compile", "graph"))
    return [_share(setup, _step(setup, "G3", shape, mode), shape, 3) for mode in modes]


def window(setup: Setup) -> list[Row]:
    """G4: a whole CT in tiles with many classes, to labels."""
    shape = setup.of(_TINY, Shape((128, 128, 128), _LARGE.features, classes=25))
    return [sliding_window_on(setup, "G4", shape, setup.of((24, 24, 32), (267, 267, 420)))]


def augmentation(setup: Setup) -> list[Row]:
    """G5: augmentation of a batch on the device, in millions of voxels per second."""
    shape = setup.of(_TINY, _LARGE)
    folder = setup.folder("G5")
    write_plans(folder, shape)
    request = {"folder": str(folder), "device": setup.device, "batches": setup.of(1, 8)}
    mine, _, _ = setup.compete("G5", ours("augmenting", request))
    seconds = mine.median / setup.of(1, 8)
    speed = shape.batch * float(np.prod(shape.patch)) / seconds / 1e6
    work = f"augment {shape.batch} patches of {'x'.join(map(str, shape.patch))}"
    facts = {"million_voxels_per_second": speed}
    return [Row(id="G5", work=work, ours=seconds, memory=mine.memory, turns=(mine.seconds,), facts=facts)]


def resampling(setup: Setup) -> list[Row]:
    """G6: class scores of a coarse grid to labels of a fine one, on the device."""
    small, large = setup.of(((12, 16, 16), (18, 24, 24)), ((300, 256, 256), (600, 512, 512)))
    return [export_row(setup, "G6", setup.of(3, 25), small, large)]


def _batches(setup: Setup) -> list[Shape]:
    if setup.size == "smoke":
        return [_TINY]
    return [Shape(_LARGE.patch, _LARGE.features, batch=batch) for batch in (2, 4, 8, 16)]


def _step(setup: Setup, identity: str, shape: Shape, mode: str) -> Row:
    folder = setup.folder(f"{identity}_{shape.batch}_{mode}")
    write_plans(folder, shape)
    eager = mode if setup.device != "cpu" else "eager"  # compiling for a CPU takes longer than the smoke run
    return step_row(setup, identity, folder, shape, eager, steps=setup.of(1, 10))


def _share(setup: Setup, row: Row, shape: Shape, factor: int) -> Row:
    """The row with patches per second and the share of the device's measured matrix product."""
    patches = shape.batch / row.ours
    flops = factor * network_flops(shape) * patches
    peak = peak_flops(setup.device, setup.of(256, 8192))
    return row.model_copy(update={"facts": row.facts | {"patches_per_second": patches, "share_of_peak": flops / peak}})
