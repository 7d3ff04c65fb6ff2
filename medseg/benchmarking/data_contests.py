"""C1, C7, C10: from a dataset on disk to arrays and patches, against nnU-Net; and which broken files each notices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.benchmarking.contest import Found, Measured, ours, peer
from medseg.benchmarking.faults import write_faulty
from medseg.benchmarking.material import Shape, dataset_json, draw_case, write_plans, write_raw
from medseg.benchmarking.result import Row, timed_row
from medseg.benchmarking.setup import Setup
from medseg.cases.case import Case
from medseg.errors import MedsegError

_HIPPOCAMPUS = Shape((40, 56, 40), (32, 64, 128, 256), batch=9)
_SMALL = Shape((16, 16, 16), (4, 8))
_SMALL_IMAGE = (35, 51, 36)
_LARGEST_DIFFERENCE = 1e-5
"""Of prepared images, whose standard deviation is 1; anything below is rounding in float32."""


def preparation(setup: Setup) -> list[Row]:
    """C1: images as the dataset has them, and a CT that has to be resampled."""
    small = setup.folder("C1_small")
    cases = _cases(setup, small, _HIPPOCAMPUS, setup.of(2, 20))
    write_plans(small, _HIPPOCAMPUS)
    large = Shape(_HIPPOCAMPUS.patch, _HIPPOCAMPUS.features, spacing=(1.5, 1.0, 1.0), classes=15, ct=True)
    ct = setup.folder("C1_ct")
    size = setup.of((12, 24, 24), (160, 256, 256))
    drawn = write_raw(ct, [draw_case(size, (2.0, 0.8, 0.8), 14, ct=True)], large)
    write_plans(ct, large)
    first = _preparation(setup, small, cases)
    second = _preparation(setup, ct, drawn)
    rows = [
        _prepared_row("C1", f"prepare {len(cases)} small cases, per case", *first, per=len(cases)),
        _prepared_row("C1", f"prepare a CT of {'x'.join(map(str, size))} voxels", *second),
    ]
    return [*rows, _both("C1", rows, len(cases))]


def _preparation(setup: Setup, folder: Path, cases: Sequence[Case]) -> Found:
    request = {"folder": str(folder), "cases": [[str(case.images[0]), str(case.labels)] for case in cases]}
    python = setup.python("nnunetv2")
    theirs = peer("nnU-Net", "nnunet_preparing", request, python) if python else None
    return setup.compete("C1", ours("preparing", request), theirs, _same_arrays)


def _prepared_row(identity: str, work: str, mine: Measured, other: Measured | None, said: str, per: int = 1) -> Row:
    return timed_row(identity, work, mine, other, "nnU-Net DefaultPreprocessor", per=per, parity=said)


def _both(identity: str, rows: Sequence[Row], count: int) -> Row:
    """All of it together, which is what the goal is about."""
    mine = (rows[0].ours * count + rows[1].ours) / (count + 1)
    other = None
    if rows[0].theirs is not None and rows[1].theirs is not None:
        other = (rows[0].theirs * count + rows[1].theirs) / (count + 1)
    ratio = other / mine if other else None
    reached = ratio >= 10 if ratio else None
    work, name = "all of these, per case", rows[0].peer
    return Row(
        id=identity,
        work=work,
        ours=mine,
        theirs=other,
        peer=name,
        ratio=ratio,
        goal="10 times as fast",
        reached=reached,
    )


def _same_arrays(mine: Path, theirs: Path | None) -> str:
    """Images equal but for rounding. Raises MedsegError where they are not."""
    if theirs is None:
        return ""
    largest, different, voxels = 0.0, 0, 0
    for file in sorted(mine.glob("image_*.npy")):
        first, second = np.load(file), np.load(theirs / file.name)
        if first.shape != second.shape:
            raise MedsegError(f"Prepared images differ in shape: {first.shape}, the peer's {second.shape}.")
        largest = max(largest, float(np.abs(first - second).max()))
        name = file.name.replace("image", "labels")
        different += int((np.load(mine / name) != np.load(theirs / name)).sum())
        voxels += first[0].size
    if largest > _LARGEST_DIFFERENCE:
        raise MedsegError(f"Prepared images differ by up to {largest:.2g} standard deviations, more than rounding.")
    return f"images differ by at most {largest:.1e}, labels in {different} of {voxels} voxels"


def patches(setup: Setup) -> list[Row]:
    """C7: augmented patches per second from disk."""
    folder = setup.folder("C7")
    shape = setup.of(_SMALL, _HIPPOCAMPUS)
    cases = _cases(setup, folder, shape, setup.of(3, 40))
    write_plans(folder, shape)
    rows = []
    for workers in setup.of((0,), (0, 1, 2)):
        request = {
            "folder": str(folder),
            "cases": [[str(case.images[0]), str(case.labels)] for case in cases],
            "workers": workers,
            "batches": setup.of(2, 24),
            "scratch": str(folder),
        }
        python = setup.python("nnunetv2")
        theirs = peer("nnU-Net", "nnunet_loading", request, python) if python else None
        mine, other, _ = setup.compete(f"C7, {workers} workers", ours("loading", request), theirs)
        drawn = shape.batch * setup.of(2, 24)
        size = "x".join(map(str, shape.patch))
        work = f"an augmented patch of {size}, {workers} workers"
        rows.append(timed_row("C7", work, mine, other, "nnU-Net, batchgeneratorsv2", per=drawn, goal=1.3))
    return rows


def checks(setup: Setup) -> list[Row]:
    """C10: verify and measure a dataset; then one broken file at a time."""
    count = setup.of(3, 200)
    folder = setup.folder("C10") / "raw"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    cases = _cases(setup, setup.folder("C10_source"), _HIPPOCAMPUS, count)
    _as_raw(cases, folder)
    faulty = write_faulty(setup.folder("C10_faulty"))
    request = {
        "dataset": str(folder),
        "faulty": {name: str(path) for name, path in faulty.items()},
        "workers": setup.threads,
        "scratch": str(setup.scratch),
    }
    python = setup.python("nnunetv2")
    theirs = peer("nnU-Net", "nnunet_checking", request, python) if python else None
    found: dict[str, float] = {"faults": len(faulty)}

    def gate(mine: Path, other: Path | None) -> str:
        for name, place in (("caught", mine), ("caught_by_peer", other)):
            if place is not None:
                found[name] = len((place / "caught.txt").read_text(encoding="utf-8").split())
        missed = sorted(set(faulty) - set((mine / "caught.txt").read_text(encoding="utf-8").split()))
        others = f", nnU-Net {found['caught_by_peer']:g}" if other is not None else ""
        return f"of {len(faulty)} broken files medseg finds {found['caught']:g}{others}" + (
            f"; missed: {', '.join(missed)}" if missed else ""
        )

    turns = max(1, setup.turns // 2)
    mine, other, said = setup.compete("C10", ours("checking", request), theirs, gate, turns)
    work = f"check and measure {len(cases)} cases"
    return [
        timed_row(
            "C10",
            work,
            mine,
            other,
            "nnU-Net verify and fingerprint",
            goal=1,
            parity=said,
            facts=found,
        )
    ]


def _cases(setup: Setup, folder: Path, shape: Shape, count: int) -> Sequence[Case]:
    """Real ones where they are there, else small drawn ones."""
    if len(setup.cases) >= count:
        return setup.cases[:count]
    structures = shape.classes - 1
    return write_raw(folder, [draw_case(_SMALL_IMAGE, (1, 1, 1), structures, seed) for seed in range(count)], shape)


def _as_raw(cases: Sequence[Case], folder: Path) -> None:
    for index, case in enumerate(cases):
        assert case.labels is not None  # cases of a Dataset have labels
        shutil.copyfile(case.images[0], folder / "imagesTr" / f"case_{index:03d}_0000.nii.gz")
        shutil.copyfile(case.labels, folder / "labelsTr" / f"case_{index:03d}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(dataset_json(_HIPPOCAMPUS, len(cases))), encoding="utf-8")
