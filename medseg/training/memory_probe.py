"""How much memory a training step really takes: one is run in a fresh process, and its peak is read from the system.

Knows nothing of how a Plan is made. A fresh process, because memory that an earlier step has freed stays with a process
and would hide what the next one needs. ``python -m medseg.training.memory_probe`` is that process: it reads a Probe as
JSON and prints a Measured as JSON.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.documents import Record
from medseg.errors import PlanError
from medseg.inference.devices import choose_precision
from medseg.planning.plan import ConfigurationPlan, TrainingPlan
from medseg.training.augmentation_spatial import initial_patch_size
from medseg.training.fold import new_loss, new_network
from medseg.training.loop import train
from medseg.training.recipe import Recipe, build_optimizer, settle_optimizer
from medseg.training.schedule import Part, Schedule, planned_stretch

_SHORT = 1_000
"""Iterations for which the optimizer is chosen where the Plan names none: AdamW, which keeps more than SGD."""
_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Probe(Record):
    """Which training step is measured."""

    configuration: ConfigurationPlan
    training: TrainingPlan
    labels: LabelTable
    channels: int
    """Of the images."""
    device: Literal["cpu", "cuda"]
    steps: int = 3
    """The first makes the optimizer's tensors, the second has all of them from its beginning."""


class Measured(Record):
    """What was found, in bytes."""

    libraries: int
    """In use before the step: Python, torch and its libraries. On a GPU what the driver takes for itself."""
    step: int
    """What the peak lies above that."""


def measure_training_memory(probe: Probe) -> Measured:
    """Run the step in a process of its own and give its peak.

    Raises PlanError when that process ends without an answer, as it does where memory is not enough.
    """
    command = [sys.executable, "-m", "medseg.training.memory_probe", str(torch.get_num_threads())]
    # The command is this module itself, without a shell, and its input was validated.
    done = subprocess.run(command, input=probe.model_dump_json(), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it was ended by signal {-done.returncode}"]
        patch, batch = probe.configuration.patch_size, probe.configuration.batch_size
        raise PlanError(
            f"A training step of {list(patch)} voxels in batches of {batch} "
            f"could not be run to measure its memory ({last[0]}). Plan with less, for example memory=4GB."
        )
    return Measured.model_validate_json(done.stdout.splitlines()[-1])


def run_step(probe: Probe) -> Measured:
    """Run the step in this process, which should be a fresh one."""
    import lightning_fabric

    device = torch.device(probe.device)
    fabric = lightning_fabric.Fabric(accelerator=probe.device, devices=1, precision=choose_precision(device))  # type: ignore[arg-type]
    _train(fabric, _recipe_of(_smallest(probe)), 1)  # loads the libraries' code and their tables
    if probe.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        libraries = total - free - torch.cuda.memory_reserved()
        _train(fabric, _recipe_of(probe), probe.steps)
        return Measured(libraries=libraries, step=torch.cuda.max_memory_allocated())
    before = _resident(forget_peak=True)
    _train(fabric, _recipe_of(probe), probe.steps)
    return Measured(libraries=before, step=_peak() - before)


def _train(fabric, recipe: Recipe, steps: int) -> None:
    network = fabric.to_device(new_network(recipe))
    optimizer = build_optimizer(network.parameters(), recipe.training.optimizer)
    module, wrapped = fabric.setup(network, optimizer)
    schedule = Schedule(recipe.parts)
    train(fabric, recipe, module, new_loss(recipe), wrapped, schedule, _batches(recipe, steps), 0, lambda _: None, str)


def _batches(recipe: Recipe, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise of the sizes that the loader gives."""
    batch = recipe.configuration.batch_size
    space = initial_patch_size(recipe.configuration, recipe.training.augmentation)
    values, channels = len(recipe.labels.known_values), recipe.channels - recipe.structures_before
    layers = (2,) if recipe.is_cascade else ()
    for _ in range(steps):
        labels = torch.randint(0, values, (batch, *layers, *space), dtype=torch.uint8)
        yield torch.randn(batch, channels, *space), labels


def _smallest(probe: Probe) -> Probe:
    """The same step with hardly any voxels or channels."""
    network = probe.configuration.network
    narrow = network.model_copy(update={"features": (2,) * len(network.features)})
    patch = tuple(1 if flat else 2 * n for n, flat in zip(network.divisor, _flat(probe), strict=True))
    small = {"network": narrow, "patch_size": patch, "batch_size": 1}
    return probe.model_copy(update={"configuration": probe.configuration.model_copy(update=small)})


def _flat(probe: Probe) -> tuple[bool, bool, bool]:
    return probe.configuration.dimensions == 2, False, False


def _recipe_of(probe: Probe) -> Recipe:
    optimizer = settle_optimizer(probe.training.optimizer, probe.training.iterations or _SHORT)
    before = len(probe.labels) - 1 if probe.configuration.previous else 0
    return Recipe(
        configuration_name="probe",
        configuration=probe.configuration,
        training=probe.training.model_copy(update={"optimizer": optimizer}),
        parts=(Part(stretch=planned_stretch(optimizer, _SHORT)),),
        fold=0,
        channels=probe.channels + before,
        labels=probe.labels,
        plan="",
        preparation={},
        shaping="",
        data="",
        training_cases=(),
        validation_cases=(),
        threads=torch.get_num_threads(),
    )


def _resident(forget_peak: bool = False) -> int:
    """Bytes in memory now; where the system allows it, the peak is counted anew from here."""
    if not _STATUS.exists():
        return _peak()
    if forget_peak:
        _FORGET_PEAK.write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    sys.stdout.write(run_step(Probe.model_validate_json(sys.stdin.read())).model_dump_json() + "\n")
