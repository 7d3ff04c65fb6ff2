"""What ``medseg plan`` plans for: the device, its memory and its speed, measured once and then read from the plan."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.cases.dataset import Dataset
from medseg.errors import MedsegError
from medseg.paths import Workspace
from medseg.planning.plan import ConfigurationPlan, Machine, Plan
from medseg.planning.presets import Preset

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def settle_machine(device: Device, memory: int | None, preset: Preset, workspace: Workspace, anew: bool) -> Machine:
    """What the plan is made for. Presets of a fixed size fit any machine alike; the others measure this one, those for
    CPUs its CPU, whatever else it has.

    What an earlier plan in the workspace measured on the same processor is taken from there, unless ``anew``.
    """
    if preset.sized_for == "reference":
        return Machine(device="any")
    from medseg.inference.devices import choose_device

    chosen = choose_device("cpu" if preset.sized_for == "cpu" else device)
    processor = _processor_of(chosen)
    earlier = None if anew else _earlier(workspace, chosen.type, processor, preset)
    if earlier is None:
        from medseg.training.budget import training_flops_per_second

        earlier = Machine.model_validate(
            {"device": chosen.type, "flops_per_second": float(f"{training_flops_per_second(chosen.type):.3g}")}
        )
    found = {"processor": processor, "memory_bytes": memory or _memory_of(chosen)}
    return earlier.model_copy(update=found)


def memory_probe(machine: Machine, preset: Preset, dataset: Dataset) -> Callable[[ConfigurationPlan], int]:
    """What measures a training step of a configuration: bytes, without the libraries."""

    def probe(configuration: ConfigurationPlan) -> int:
        from medseg.training.memory_probe import Probe, measure_training_memory

        return measure_training_memory(
            Probe(
                configuration=configuration,
                training=preset.training,
                labels=dataset.labels,
                channels=len(dataset.channels),
                device="cuda" if machine.device == "cuda" else "cpu",
            )
        ).step

    return probe


def _earlier(workspace: Workspace, device: str, processor: str, preset: Preset) -> Machine | None:
    """What an earlier plan has measured, as far as it holds: the memory factor belongs to a network."""
    try:
        plan = Plan.load(workspace.plan)
    except MedsegError:
        return None
    machine = plan.machine
    if (machine.device, machine.processor) != (device, processor) or machine.flops_per_second is None:
        return None
    same_network = plan.configuration(None)[1].network.name == preset.network
    return machine if same_network else machine.model_copy(update={"memory_factor": None})


def _processor_of(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")),
            name,
        )
    return f"{name}, {torch.get_num_threads()} threads"


def _memory_of(device: torch.device) -> int | None:
    """Bytes that the device has; of a container what it was given."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    given = _CGROUP.read_text().strip() if _CGROUP.exists() else "max"
    return min(physical, int(given)) if given.isdigit() else physical
