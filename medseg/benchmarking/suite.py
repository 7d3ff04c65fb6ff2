"""The two suites, and running one: every contest by its id, its rows, and what could not be compared.

Knows nothing of single contests. Their work, peers and goals: ``C1`` to ``C10`` on a CPU, ``G1`` to ``G6`` on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from medseg.benchmarking.data_contests import checks, patches, preparation
from medseg.benchmarking.gpu_contests import augmentation, forward, resampling, small_patches, training, window
from medseg.benchmarking.other_contests import scoring, start_up, training_step
from medseg.benchmarking.prediction_contests import default_settings, export, same_settings, sliding_window
from medseg.benchmarking.result import BenchmarkResult, Row, describe_machine
from medseg.benchmarking.setup import Setup
from medseg.errors import MedsegError, SettingsError

Suite = Literal["cpu", "gpu"]
Contest = Callable[[Setup], list[Row]]
SUITES: dict[Suite, dict[str, Contest]] = {
    "cpu": {
        "C1": preparation,
        "C2": same_settings,
        "C3": default_settings,
        "C4": sliding_window,
        "C5": export,
        "C6": scoring,
        "C7": patches,
        "C8": training_step,
        "C9": start_up,
        "C10": checks,
    },
    "gpu": {
        "G1": training,
        "G2": forward,
        "G3": small_patches,
        "G4": window,
        "G5": augmentation,
        "G6": resampling,
    },
}


def chosen_contests(suite: Suite, only: Sequence[str]) -> dict[str, Contest]:
    """Those of a suite, or the named ones. Raises SettingsError for a name it does not have."""
    known = SUITES[suite]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SettingsError(f"The {suite} suite has no {', '.join(unknown)}; it has {', '.join(known)}.")
    return {name: contest for name, contest in known.items() if not only or name in only}


def run_suite(suite: Suite, only: Sequence[str], setup: Setup, told: Callable[[str], None]) -> BenchmarkResult:
    """Run contest after contest; one that fails, or whose parity is refused, is named and does not stop the others."""
    rows: list[Row] = []
    for name, contest in chosen_contests(suite, only).items():
        try:
            rows += contest(setup)
        except MedsegError as error:
            setup.missing.append(f"{name}: {error}")
        finally:
            setup.progress.finish()
        told(name)
    return BenchmarkResult(
        suite=suite,
        size=setup.size,
        machine=describe_machine(),
        threads=setup.threads,
        device=setup.device,
        material=_material(setup),
        versions=setup.versions,
        rows=tuple(rows),
        missing=tuple(setup.missing),
    )


def _material(setup: Setup) -> str:
    images = f"dataset {setup.dataset.name}, {len(setup.cases)} cases" if setup.dataset else "drawn images"
    return f"{images}; {'a trained nnU-Net model' if setup.model else 'networks of random weights'}"
