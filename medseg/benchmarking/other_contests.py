"""C6, C8, C9: scoring, a training step, and how long a command takes to say anything."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from scipy import ndimage

from medseg.benchmarking.contest import ours, peer
from medseg.benchmarking.material import Shape, draw_labels, write_plans
from medseg.benchmarking.result import Row, timed_row
from medseg.benchmarking.setup import Setup
from medseg.errors import MedsegError

_SPACING = (1.5, 0.8, 0.8)
_PEERS = {"surface_distance": "surface-distance", "monai": "MONAI"}
_LARGEST_DIFFERENCE = 1e-5
"""Of Dice, HD95 in mm and NSD to surface-distance, whose definition is ours; MONAI's surfaces are its own."""


def scoring(setup: Setup) -> list[Row]:
    """C6: Dice, HD95 and NSD of many structures, against each peer that is there."""
    folder = setup.folder("C6")
    shape, structures = setup.of(((24, 32, 32), 3), ((200, 256, 256), 14))
    truth = draw_labels(shape, structures)
    np.save(folder / "truth.npy", truth)
    np.save(folder / "prediction.npy", _roughened(truth, structures))
    request = {
        "truth": str(folder / "truth.npy"),
        "prediction": str(folder / "prediction.npy"),
        "structures": structures,
        "spacing": list(_SPACING),
    }
    rows = []
    for module, name in _PEERS.items():
        python = setup.python(module)
        theirs = peer(name, f"{module}_scoring", request, python) if python else None
        exact = module == "surface_distance"

        def gate(first: Path, second: Path | None, exact: bool = exact) -> str:
            return _same_scores(first, second, exact)

        turns = setup.turns if exact else max(1, setup.turns // 2)
        mine, other, said = setup.compete(f"C6, {name}", ours("scoring", request), theirs, gate, turns)
        work = f"score {structures} structures, {'x'.join(map(str, shape))}"
        rows.append(timed_row("C6", work, mine, other, name, goal=10, parity=said))
    return rows


def _roughened(truth: np.ndarray, structures: int) -> np.ndarray:
    """A prediction with rough edges, a shift, and stray voxels of every structure."""
    random = np.random.default_rng(1)
    noise = ndimage.gaussian_filter(random.standard_normal(truth.shape).astype(np.float32), 2)
    prediction = np.where(noise > 0.05, np.roll(truth, 2, axis=1), truth)
    for index in range(1, structures + 1):
        prediction[tuple(random.integers(0, n, 5) for n in truth.shape)] = index
    return prediction.astype(np.uint8)


def _same_scores(first: Path, second: Path | None, exact: bool) -> str:
    if second is None:
        return ""
    mine, other = np.load(first / "scores.npy"), np.load(second / "scores.npy")
    largest = np.nanmax(np.abs(mine - other), axis=0)
    said = f"largest differences: Dice {largest[0]:.1e}, HD95 {largest[1]:.1e} mm, NSD {largest[2]:.1e}"
    if exact and largest.max() > _LARGEST_DIFFERENCE:
        raise MedsegError(f"Scores differ from the peer's; {said}.")
    return said


def training_step(setup: Setup) -> list[Row]:
    """C8: one step of nnU-Net's hippocampus plan on one batch in memory."""
    folder = setup.folder("C8")
    shape = setup.of(Shape((16, 16, 16), (4, 8)), Shape((40, 56, 40), (32, 64, 128, 256), batch=7))
    write_plans(folder, shape)
    return [step_row(setup, "C8", folder, shape, "eager", steps=1, goal=1.0)]


def step_row(
    setup: Setup, identity: str, folder: Path, shape: Shape, mode: str, steps: int, goal: float | None = None
) -> Row:
    """A row of a training step; nnU-Net's trainer steps beside it where it can do the same."""
    request = {
        "folder": str(folder),
        "device": setup.device,
        "steps": steps,
        "mode": mode,
        "scratch": str(setup.scratch),
    }
    python = setup.python("nnunetv2") if mode != "graph" else None
    theirs = peer("nnU-Net", "nnunet_stepping", request, python) if python else None
    mine, other, _ = setup.compete(f"{identity}, {mode}", ours("stepping", request), theirs)
    size = "x".join(map(str, shape.patch))
    work = f"training step, {size}, batch {shape.batch}, {mode}"
    return timed_row(identity, work, mine, other, "nnU-Net trainer", per=steps, goal=goal)


def start_up(setup: Setup) -> list[Row]:
    """C9: seconds until a command has said what it does."""
    words = {
        "medseg --help": [sys.executable, "-m", "medseg", "--help"],
        "medseg check help": [sys.executable, "-m", "medseg", "check", "help"],
    }
    python = setup.python("nnunetv2")
    other = python.with_name("nnUNetv2_train") if python else None
    theirs = [str(other), "-h"] if other is not None and other.is_file() else None
    spent: dict[str, list[float]] = {name: [] for name in (*words, "theirs")}
    setup.progress.start("C9", setup.turns + 1)
    for _ in range(setup.turns + 1):
        for name, command in (*words.items(), ("theirs", theirs)):
            if command is not None:
                spent[name].append(_seconds(command))
        setup.progress.advance()
    rows = []
    for name in words:
        mine, peer_time = median(spent[name][1:]), median(spent["theirs"][1:]) if theirs else None
        rows.append(
            Row(
                id="C9",
                work=name,
                ours=mine,
                theirs=peer_time,
                peer="nnUNetv2_train -h" if peer_time else "",
                ratio=peer_time / mine if peer_time else None,
                goal="at most 0.3 s",
                reached=mine <= 0.3,
                turns=tuple(tuple(found[1:]) for found in spent.values() if found),
            )
        )
    return rows


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (an argument list, no shell)
    if done.returncode:
        raise MedsegError(f"'{' '.join(command)}' ended with code {done.returncode}.")
    return time.perf_counter() - started
