"""``medseg plan``: measure a dataset's fingerprint and write the plan of its networks.

One minute on a CPU, without any data: ``medseg plan``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from medseg.cases.dataset import Dataset
from medseg.cases.folds import Folds, make_folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cases.likeness import find_alike
from medseg.cases.phantoms import PhantomRecipe, load_recipe, phantoms_named, write_phantoms
from medseg.cases.test_set import draw_test_set, require_apart, set_aside
from medseg.commands.console import Bar, say, table
from medseg.documents import read_text
from medseg.errors import DatasetError
from medseg.paths import RUNS, Workspace
from medseg.planning.architectures import architecture
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.measure import measure_fingerprint
from medseg.planning.plan import Machine, Plan
from medseg.planning.presets import Preset, load_preset
from medseg.planning.rules import make_plan
from medseg.planning.traits import share_of_folds, traits_of
from medseg.run_record import record_run
from medseg.settings import Bytes, Seconds, Settings, build

DEMO = "phantom_abdomen"
_DEMO_BUDGET_SECONDS = 300.0
_BUDGET_SECONDS = {"cpu": 2 * 3600.0, "cuda": 8 * 3600.0}
"""Training one fold: an evening's work on a CPU, nnU-Net's own order of time on a GPU."""


class PlanSettings(Settings):
    """Settings of ``medseg plan``."""

    dataset: Path | None = None
    """Folder or file of the dataset, or a recipe of phantoms (phantom_abdomen, phantom_tumour, or a YAML file); without
    it medseg makes phantoms of an abdomen to try things on."""
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
    folds: int = Field(default=5, ge=2)
    """Groups of cases that are held out in turn."""
    stratify: bool = False
    """Give every fold its share of rare structures, of small and large ones, and of each stratum that the list of cases
    names; false deals as nnU-Net does."""
    test: float | str | None = None
    """A test set that nothing but 'medseg test' opens: a share such as 0.2, names such as case_1,case_2, or a text file
    with a name in each line; by default what the dataset itself sets aside."""
    workers: int = 2
    """Threads that read cases."""


SETTINGS = (PlanSettings,)


def run(words: Mapping[str, str]) -> None:
    """Measure, plan, and write fingerprint.json, plan.yaml, labels.yaml, folds.yaml and dataset.yaml."""
    settings = build(PlanSettings, words)
    started = time.monotonic()
    preset = _preset(settings)
    with Bar() as bar:
        recipe = load_recipe(DEMO) if settings.dataset is None else phantoms_named(settings.dataset)
        source = settings.dataset if recipe is None else _make_phantoms(recipe, settings)
        assert source is not None  # without a dataset there is a recipe
        dataset = read_dataset(source)
        if not dataset.cases:
            raise DatasetError(f"{source} has no case with both an image and labels, so there is nothing to train on.")
        dataset = _without_test_set(dataset, settings)
        workspace = Workspace(settings.workspace or RUNS / dataset.name)
        fingerprint = measure_fingerprint(dataset, preset.orientation, bar, settings.workers)
    plan = make_plan(fingerprint, dataset.labels, preset, measure_machine(settings, preset))
    if settings.network is not None:
        asked = {f"configurations.{name}.network.name": "set with network=" for name in plan.configurations}
        plan = plan.model_copy(update={"reasons": plan.reasons | asked})
    plan = _with_budget(plan, settings, quick=recipe is not None)
    fingerprint.save(workspace.fingerprint)
    dataset.labels.save(workspace.labels)
    save_dataset(dataset, workspace.dataset)
    _make_folds(dataset, fingerprint, settings).save(workspace.folds)
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


def _without_test_set(dataset: Dataset, settings: PlanSettings) -> Dataset:
    if settings.test is None:
        return require_apart(dataset)
    if not isinstance(settings.test, str):
        return draw_test_set(dataset, settings.test)
    file = Path(settings.test)
    names = read_text(file, DatasetError).split() if file.is_file() else settings.test.split(",")
    return set_aside(dataset, names)


def _make_folds(dataset: Dataset, fingerprint: Fingerprint, settings: PlanSettings) -> Folds:
    """The folds; copies of one examination stay together, and the user is told which they are."""
    names = [case.name for case in fingerprint.cases]
    alike = [(names[a], names[b]) for a, b in find_alike([case.thumbnail for case in fingerprint.cases])]
    groups = {case.name: case.group for case in dataset.cases}
    for first, second in alike:
        if groups[first] != groups[second]:
            say(f"'{first}' and '{second}' look like the same examination; they are kept in one fold.")
    traits = traits_of(fingerprint, dataset) if settings.stratify else None
    folds = make_folds(dataset, settings.folds, alike=alike, traits=traits)
    if traits is not None and folds.folds:
        titles = ["held-out cases with", *(f"fold {number}" for number in range(len(folds.folds)))]
        shares = share_of_folds(folds, traits).items()
        table("Shares of the folds", titles, [[trait, *map(str, counts)] for trait, counts in shares])
    return folds


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


def _make_phantoms(recipe: PhantomRecipe, settings: PlanSettings) -> Path:
    if settings.dataset is None:
        say("No dataset is named, so medseg makes phantoms to try things on (dataset=DIR takes your own).")
    return write_phantoms(recipe, (settings.workspace or RUNS / recipe.name) / "phantoms")


def _with_budget(plan: Plan, settings: PlanSettings, quick: bool) -> Plan:
    budget, reason = settings.budget, "set with budget="
    if budget is None and quick:
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
    test = f" and {len(dataset.test)} set aside for 'medseg test'" if dataset.test else ""
    targets = "regions" if dataset.labels.regions else "labels"
    known = f"channels {', '.join(dataset.channels)}, {targets} {', '.join(dataset.labels.target_names)}"
    say(f"{len(dataset.cases)} cases{test}, {known}")
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
