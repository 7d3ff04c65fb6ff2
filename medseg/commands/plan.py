"""``medseg plan``: measure a dataset's fingerprint and write the plan of its networks.

One minute on a CPU, without any data: ``medseg plan``
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
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
from medseg.commands.plan_machine import memory_probe, settle_machine
from medseg.commands.plan_show import draw_picture, show_plan, show_reasons
from medseg.documents import read_text
from medseg.errors import DatasetError
from medseg.paths import RUNS, Workspace
from medseg.planning.architectures import architecture
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import require_memory
from medseg.planning.measure import measure_fingerprint
from medseg.planning.plan import Machine, Plan
from medseg.planning.presets import Preset, load_preset
from medseg.planning.probing import plan_by_probe
from medseg.planning.rules import Planned, plan_dataset
from medseg.planning.small import as_words, describe_small, find_small, sampling_for
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
    small_structures: Literal["off", "say", "apply"] | None = None
    """What becomes of the sampling that is meant for small and rare structures: said, planned (apply), or neither; by
    default the preset's."""
    workspace: Path | None = None
    """Folder for everything that follows; by default runs/<dataset>."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What the plan is made for; auto takes a GPU where there is one."""
    memory: Bytes | None = None
    """Memory that training may take, such as 8GB; a training step is then measured. By default what the device has."""
    budget: Seconds | None = None
    """Time for training one fold, such as 15min or 2h; the networks are sized for it."""
    folds: int = Field(default=5, ge=2)
    """Groups of cases that are held out in turn."""
    stratify: bool = False
    """Give every fold its share of rare structures, of small and large ones, and of each stratum that the list of cases
    names; false deals as nnU-Net does."""
    test: float | str | None = None
    """A test set that nothing but 'medseg test' opens: a share such as 0.2, names such as case_1,case_2, or a text file
    with a name in each line; by default what the dataset itself sets aside."""
    explain: bool = False
    """Print the reason of every value, and draw the dataset with its patches (plan.png in the workspace)."""
    measure: bool = False
    """Measure this machine anew, even where an earlier plan in the workspace has done so."""
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
    planned = _plan(fingerprint, dataset, preset, settings, workspace, quick=recipe is not None)
    fingerprint.save(workspace.fingerprint)
    dataset.labels.save(workspace.labels)
    save_dataset(dataset, workspace.dataset)
    _make_folds(dataset, fingerprint, settings).save(workspace.folds)
    planned.plan.save(workspace.plan)
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
    show_plan(planned, dataset, workspace)
    _say_small(fingerprint, dataset, preset)
    if settings.explain:
        show_reasons(planned.plan)
        draw_picture(planned.plan, fingerprint, dataset, workspace)


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
    changed = {"small_structures": settings.small_structures} if settings.small_structures else {}
    if settings.network is not None:
        changed["network"] = architecture(settings.network).name
    return preset.model_copy(update=changed)


def _say_small(fingerprint: Fingerprint, dataset: Dataset, preset: Preset) -> None:
    """One sentence about small and rare structures, and what is meant for them."""
    small = find_small(fingerprint, dataset.labels, preset.small_below) if preset.small_structures != "off" else ()
    if not small:
        return
    why, words = describe_small(small, len(fingerprint.cases)), as_words(sampling_for(small))
    if preset.small_structures == "apply":
        say(f"Small or rare: {why}. The plan has {words}.")
    else:
        say(f"Small or rare: {why}. Meant for them, but not planned unless asked for (small_structures=apply): {words}")


def _make_phantoms(recipe: PhantomRecipe, settings: PlanSettings) -> Path:
    if settings.dataset is None:
        say("No dataset is named, so medseg makes phantoms to try things on (dataset=DIR takes your own).")
    return write_phantoms(recipe, (settings.workspace or RUNS / recipe.name) / "phantoms")


def _plan(
    fingerprint: Fingerprint,
    dataset: Dataset,
    preset: Preset,
    settings: PlanSettings,
    workspace: Workspace,
    quick: bool,
) -> Planned:
    """The plan that fits the machine, its networks' memory measured where a limit was asked for."""
    machine = settle_machine(settings.device, settings.memory, preset, workspace, settings.measure)
    budget, reason = _budget(settings, preset, machine, quick)

    def plan_for(known: Machine) -> Planned:
        planned = plan_dataset(fingerprint, dataset.labels, preset, known, budget)
        return replace(planned, plan=_completed(planned.plan, settings, budget, reason))

    if preset.sized_for == "reference":
        planned = plan_for(machine)
        device = "cpu" if settings.device == "cpu" else "cuda"
        memory = settings.memory
        for sentence in require_memory(planned.plan, dataset.labels.outputs, device, memory) if memory else ():
            say(sentence)
        return planned
    if settings.memory is None or machine.device == "mps":
        return plan_for(machine)
    say("Measuring the memory of a training step ...")
    return plan_by_probe(plan_for, machine, memory_probe(machine, preset, dataset))


def _budget(settings: PlanSettings, preset: Preset, machine: Machine, quick: bool) -> tuple[float | None, str]:
    """Seconds for training one fold, and why; None where the preset gives the iterations."""
    if settings.budget is not None:
        return settings.budget, "set with budget="
    if quick:
        return _DEMO_BUDGET_SECONDS, "phantoms are quick to learn"
    if preset.training.iterations is not None or preset.training.budget is not None:
        return preset.training.budget, f"preset '{preset.name}' says so"
    kind = "cuda" if machine.device in ("cuda", "any") else "cpu"
    return _BUDGET_SECONDS[kind], f"medseg's default on {kind}; budget=TIME changes it"


def _completed(plan: Plan, settings: PlanSettings, budget: float | None, reason: str) -> Plan:
    """The plan with the budget in it, and the reason of a network that was asked for."""
    reasons = dict(plan.reasons)
    if settings.memory is not None and "machine.memory_bytes" in reasons:
        reasons["machine.memory_bytes"] = reasons["machine.memory_bytes"].replace(
            "found on this machine", "set with memory="
        )
    if settings.network is not None:
        reasons |= {f"configurations.{name}.network.name": "set with network=" for name in plan.configurations}
    training = plan.training
    if budget is not None:
        training = training.model_copy(update={"budget": budget, "iterations": None})
        reasons["training.budget"] = reason
    return plan.model_copy(update={"training": training, "reasons": reasons})
