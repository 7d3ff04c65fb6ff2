"""``medseg plan``: measure a dataset's fingerprint and write the plan of its networks.

One minute on a CPU, without any data: ``medseg plan``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medseg.cases.dataset import Dataset
from medseg.cases.folds import make_folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.phantoms import load_recipe, write_phantoms
from medseg.commands.console import Bar, say, table
from medseg.errors import DatasetError
from medseg.paths import RUNS, Workspace
from medseg.planning.architectures import architecture
from medseg.planning.measure import measure_fingerprint
from medseg.planning.plan import Machine, Plan
from medseg.planning.presets import Preset, load_preset
from medseg.planning.rules import make_plan
from medseg.run_record import record_run
from medseg.settings import Bytes, Seconds, Settings, build

DEMO = "phantom_abdomen"
_DEMO_BUDGET_SECONDS = 300.0
_BUDGET_SECONDS = {"cpu": 2 * 3600.0, "cuda": 8 * 3600.0}
"""Training one fold: an evening's work on a CPU, nnU-Net's own order of time on a GPU."""


class PlanSettings(Settings):
    """Settings of ``medseg plan``."""

    dataset: Path | None = None
    """Folder or file of the dataset; without it medseg makes phantoms of its own to try things on."""
    preset: str = "default"
    """Name of a preset ('medseg info' lists them) or a YAML file."""
    network: str | None = None
    """Name of a network ('medseg info' lists them); by default the preset's."""
    workspace: Path | None = None
    """Folder for everything that follows; by default runs/<dataset>."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What the plan is made for; auto takes a GPU where there is one."""
    memory: Bytes | None = None
    """Memory of the device that training may use; by default what the device has."""
    budget: Seconds | None = None
    """Time for training one fold, such as 15min or 2h; written into the plan."""
    workers: int = 2
    """Threads that read cases."""


SETTINGS = (PlanSettings,)


def run(words: Mapping[str, str]) -> None:
    """Measure, plan, and write fingerprint.json, plan.yaml, labels.yaml, folds.yaml and dataset.yaml."""
    settings = build(PlanSettings, words)
    started = time.monotonic()
    preset = _preset(settings)
    with Bar() as bar:
        source = settings.dataset or _make_phantoms(settings.workspace)
        dataset = read_dataset(source)
        if not dataset.cases:
            raise DatasetError(f"{source} has no case with both an image and labels, so there is nothing to train on.")
        workspace = Workspace(settings.workspace or RUNS / dataset.name)
        fingerprint = measure_fingerprint(dataset, preset.orientation, bar, settings.workers)
    plan = make_plan(fingerprint, dataset.labels, preset, measure_machine(settings, preset))
    if settings.network is not None:
        asked = {f"configurations.{name}.network.name": "set with network=" for name in plan.configurations}
        plan = plan.model_copy(update={"reasons": plan.reasons | asked})
    plan = _with_budget(plan, settings)
    fingerprint.save(workspace.fingerprint)
    dataset.labels.save(workspace.labels)
    save_dataset(dataset, workspace.dataset)
    make_folds(dataset).save(workspace.folds)
    plan.save(workspace.plan)
    sources = {name: "words" if name in words else "default" for name in PlanSettings.model_fields}
    record_run(
        workspace.folder / "run.json",
        "plan",
        words,
        settings.model_dump(mode="json"),
        sources,
        {"seconds": round(time.monotonic() - started, 1), "cases": len(dataset.cases)},
    )
    workspace.remember()
    _show(plan, dataset, workspace)


def _preset(settings: PlanSettings) -> Preset:
    preset = load_preset(settings.preset)
    if settings.network is None:
        return preset
    return preset.model_copy(update={"network": architecture(settings.network).name})


def measure_machine(settings: PlanSettings, preset: Preset) -> Machine:
    """What the plan is made for. Presets of a fixed size fit any machine alike; the others measure this one."""
    if preset.sized_for == "reference":
        return Machine(device="any")
    import torch

    from medseg.inference.devices import choose_device
    from medseg.training.budget import training_flops_per_second

    chosen = choose_device(settings.device)
    memory = settings.memory
    if memory is None and chosen.type == "cuda":
        memory = torch.cuda.get_device_properties(chosen).total_memory
    speed = float(f"{training_flops_per_second(chosen.type):.3g}")
    return Machine.model_validate({"device": chosen.type, "memory_bytes": memory, "flops_per_second": speed})


def _make_phantoms(workspace: Path | None) -> Path:
    say("No dataset is named, so medseg makes phantoms to try things on (dataset=DIR takes your own).")
    return write_phantoms(load_recipe(DEMO), (workspace or RUNS / DEMO) / "phantoms")


def _with_budget(plan: Plan, settings: PlanSettings) -> Plan:
    budget, reason = settings.budget, "set with budget="
    if budget is None and settings.dataset is None:
        budget, reason = _DEMO_BUDGET_SECONDS, "phantoms are quick to learn"
    if budget is None and plan.training.iterations is None and plan.training.budget is None:
        kind = "cuda" if plan.machine.device in ("cuda", "any") else "cpu"
        budget, reason = _BUDGET_SECONDS[kind], f"medseg's default on {kind}; budget=TIME changes it"
    if budget is None:
        return plan
    training = plan.training.model_copy(update={"budget": budget, "iterations": None})
    return plan.model_copy(
        update={"training": training, "reasons": plan.reasons | {"training.budget": reason}},
    )


def _show(plan: Plan, dataset: Dataset, workspace: Workspace) -> None:
    say(f"{len(dataset.cases)} cases, channels {', '.join(dataset.channels)}, labels {', '.join(dataset.labels.names)}")
    rows = [
        (
            f"{name}{' *' if name == plan.default_configuration else ''}",
            "x".join(f"{mm:.3g}" for mm in configuration.spacing),
            "x".join(map(str, configuration.median_shape)),
            "x".join(map(str, configuration.patch_size)),
            str(configuration.batch_size),
            "-".join(map(str, configuration.network.features)),
        )
        for name, configuration in plan.configurations.items()
    ]
    columns = ("configuration", "spacing mm", "median shape", "patch", "batch", "features")
    table(f"Plan of {plan.dataset} (preset {plan.preset}, {plan.machine.device})", columns, rows)
    say(f"* is the default. Every value with its reason: {workspace.plan}\nNext: medseg train fold=0")
