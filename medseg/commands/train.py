"""``medseg train``: prepare the data, train a fold, predict its held-out cases and score them.

A minute on a CPU after ``medseg plan``: ``medseg train fold=0 budget=1min``
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from medseg.cases.case import Case
from medseg.cases.dataset import Dataset
from medseg.cases.folds import Folds
from medseg.cases.formats import read_dataset
from medseg.cases.labels import LabelTable
from medseg.commands.console import Bar, say, table
from medseg.errors import CheckpointError, PlanError, SettingsError
from medseg.evaluation.scores import Scores, as_rows
from medseg.paths import Workspace, last_used
from medseg.planning.override import Shorthands, override_plan
from medseg.planning.plan import ConfigurationName, ConfigurationPlan, Plan, TrainingPlan
from medseg.planning.reasons import leaf_keys
from medseg.progress import Progress, Silent
from medseg.run_record import record_run
from medseg.settings import Seconds, Settings, build, require_known

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.recipe import Recipe

_PROBE_SECONDS = (3.0, 10.0)
_PROBE_SHARE = 0.03


class TrainSettings(Settings):
    """Settings of ``medseg train``; the plan's own values (patch_size, optimizer.learning_rate, ...) are taken too."""

    fold: int | Literal["all", "full"] = 0
    """Which fold is held out; all trains every fold, one after the other; full trains on every case, none held out."""
    workspace: Path | None = None
    """A folder that 'medseg plan' has written; by default the one last used from here."""
    configuration: ConfigurationName | None = None
    """2d, 3d_fullres, ...; by default the plan's own choice."""
    budget: Seconds | None = None
    """Time for training, such as 15min or 2h; preparation and validation are not counted."""
    iterations: PositiveInt | None = None
    """Number of optimizer steps; wins over budget."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU where there is one."""
    devices: PositiveInt = 1
    """Number of GPUs (or CPU processes) on this machine that share each batch."""
    nodes: PositiveInt = 1
    """Number of machines; start the same command on each, or let the cluster do so."""
    resume: bool = False
    """Continue an interrupted training from its newest checkpoint, to the same result."""
    restart: bool = False
    """Delete an earlier training of this fold and begin anew."""
    workers: int = Field(default=-1, ge=-1)
    """Processes that load patches; -1 chooses: none on a CPU, up to 4 with a GPU."""
    save_every: Seconds = 120.0
    """Longest time between two checkpoints."""
    validate_fold: bool = True
    """Predict and score the held-out cases afterwards."""
    tensorboard: bool = False
    """Also log for TensorBoard (needs the extra: pip install medseg[tensorboard])."""


SETTINGS = (TrainSettings, ConfigurationPlan, TrainingPlan, Shorthands)
Fold = int | Literal["full"]
_FREE_ON_RESUME = {"fold", "workspace", "configuration", "device", "devices", "nodes", "resume", "restart", "workers",
                   "save_every", "validate_fold", "tensorboard"}  # fmt: skip
"""Settings that do not change the result, or say which training is meant."""


@dataclass(frozen=True)
class _Job:
    """What all folds of one command share."""

    settings: TrainSettings
    words: Mapping[str, str]
    workspace: Workspace
    plan: Plan
    name: ConfigurationName
    configuration: ConfigurationPlan
    dataset: Dataset
    table: LabelTable
    folds: Folds

    @property
    def prepared(self) -> Path:
        """Where the prepared arrays lie; another way of preparing has another folder, so no training loses its own."""
        from medseg.preprocessing.store import shaping_hash

        return self.workspace.prepared(self.name) / shaping_hash(self.table, self.plan, self.configuration)[:12]


def run(words: Mapping[str, str]) -> None:
    """Train the asked folds; each ends with its scores and pictures."""
    job = _read_job(words)
    settings = job.settings
    chosen: list[Fold] = list(range(len(job.folds.folds))) if settings.fold == "all" else [settings.fold]
    for fold in chosen:
        _require_startable(job, fold)
    # Processes that Fabric starts for more devices run this same command; only the first one speaks.
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    with Bar() if first else nullcontext(Silent()) as progress:
        _prepare(job, chosen, progress)
        fabric = _launch(settings)
        for fold in chosen:
            _train_one(job, fold, fabric, progress if fabric.is_global_zero else Silent())


def _read_job(words: Mapping[str, str]) -> _Job:
    for key in words:
        require_known(key, SETTINGS)
    own = {key: text for key, text in words.items() if key in TrainSettings.model_fields}
    settings = build(TrainSettings, own)
    workspace = Workspace(settings.workspace) if settings.workspace else last_used()
    if settings.workspace is None and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        say(f"Workspace: {workspace.folder} (the one last used from here)")
    if not workspace.plan.is_file():
        raise PlanError(f"There is no plan in {workspace.folder}. Run 'medseg plan dataset=DIR workspace=...' first.")
    plan = Plan.load(workspace.plan)
    name, _ = plan.configuration(settings.configuration)
    plan = override_plan(plan, name, {key: text for key, text in words.items() if key not in own})
    configuration = plan.configurations[name]
    if configuration.previous is not None:
        raise PlanError(f"Training the cascade configuration '{name}' is not possible yet; choose another one.")
    dataset = read_dataset(workspace.dataset)
    workspace.remember()
    table, folds = LabelTable.load(workspace.labels), Folds.load(workspace.folds)
    return _Job(settings, words, workspace, plan, name, configuration, dataset, table, folds)


def _require_startable(job: _Job, fold: Fold) -> None:
    _cases(job, fold)
    folder = job.workspace.fold(job.name, fold)
    if job.settings.resume and job.settings.restart:
        raise SettingsError("resume=true continues a training and restart=true deletes it; choose one.")
    settled = sorted(set(job.words) - _FREE_ON_RESUME)
    if job.settings.resume and settled and (folder / "recipe.json").exists():
        raise SettingsError(
            f"resume=true continues the recipe in {folder}, which settles {', '.join(settled)} already. "
            "Leave these words out, or begin anew with restart=true."
        )
    if (folder / "recipe.json").exists() and not (job.settings.resume or job.settings.restart):
        state = "is trained already" if (folder / "weights.safetensors").exists() else "has an unfinished training"
        raise CheckpointError(
            f"{folder} {state}. resume=true continues (or scores) it, restart=true deletes it and begins anew."
        )


def _cases(job: _Job, fold: Fold) -> tuple[list[Case], list[Case]]:
    """The Cases to train on and those held out: by the Recipe on disk when resuming, else by the folds."""
    recipe = _earlier_recipe(job, fold)
    names = (recipe.training_cases, recipe.validation_cases) if recipe else job.folds.split(fold)
    known = {case.name: case for case in job.dataset.cases}
    missing = [name for part in names for name in part if name not in known]
    if missing:
        raise CheckpointError(
            f"Fold {fold} needs the cases {', '.join(missing[:5])}, which are not in the dataset any more. "
            "Put them back, or begin anew with restart=true."
        )
    return [known[name] for name in names[0]], [known[name] for name in names[1]]


def _earlier_recipe(job: _Job, fold: Fold) -> Recipe | None:
    """The Recipe of the training to resume. Raises CheckpointError when the Plan has changed since."""
    path = job.workspace.fold(job.name, fold) / "recipe.json"
    if not job.settings.resume or not path.exists():
        return None
    from medseg.preprocessing.store import shaping_hash
    from medseg.training.recipe import Recipe

    recipe = Recipe.load(path)
    if recipe.shaping != shaping_hash(job.table, job.plan, job.configuration):
        raise CheckpointError(
            f"The plan prepares images in another way than when {path.parent} was begun (spacing, normalisation or "
            "orientation differ). Put the old plan back, or begin anew with restart=true."
        )
    return recipe


def _prepare(job: _Job, chosen: Sequence[Fold], progress: Progress) -> None:
    from medseg.preprocessing.store import prepare_cases

    needed = {case.name: case for fold in chosen for cases in _cases(job, fold) for case in cases}
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cases = [needed[name] for name in sorted(needed)]
    prepare_cases(cases, job.table, job.plan, job.configuration, job.prepared, min(workers, 8), progress)


def _launch(settings: TrainSettings) -> Fabric:
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    from medseg.inference.devices import choose_device, choose_precision

    device = choose_device(settings.device)
    several = settings.devices * settings.nodes > 1
    if several and device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // settings.devices))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    fabric = Fabric(
        accelerator=device.type,
        devices=settings.devices,
        num_nodes=settings.nodes,
        # The coarsest head has weight 0 in the loss, so it gets no gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        precision=choose_precision(device),  # pyright: ignore[reportArgumentType]
    )
    fabric.launch()
    return fabric


def _train_one(job: _Job, fold: Fold, fabric: Fabric, progress: Progress) -> None:
    import torch

    from medseg.training.fold import train_fold
    from medseg.training.validation import validate_fold

    started = time.monotonic()
    folder = job.workspace.fold(job.name, fold)
    if job.settings.restart and fabric.is_global_zero and folder.exists():
        shutil.rmtree(folder)
    fabric.barrier()
    recipe = _settle_recipe(job, fold, fabric, progress)
    torch.set_num_threads(recipe.threads)
    if fabric.is_global_zero:
        optimizer = recipe.training.optimizer
        say(
            f"Fold {fold} of {job.name}: {len(recipe.training_cases)} cases to train, {len(recipe.validation_cases)} "
            f"held out; {recipe.iterations} iterations of {recipe.configuration.batch_size} patches "
            f"{'x'.join(map(str, recipe.configuration.patch_size))} on {fabric.device}, {optimizer.name} at "
            f"{optimizer.learning_rate}"
        )
    tracker = _tracker(job, folder) if fabric.is_global_zero else None
    workers = _workers(job.settings, fabric)
    network = train_fold(fabric, recipe, job.prepared, folder, progress, workers, job.settings.save_every, tracker)
    if tracker is not None:
        tracker.close()
    trained = time.monotonic()
    if not fabric.is_global_zero:
        fabric.barrier()
        return
    scores = None
    if job.settings.validate_fold and recipe.validation_cases:
        held_out = _cases(job, fold)[1]
        scores = validate_fold(recipe, network, held_out, job.table, job.prepared, folder, fabric.device, progress)
    seconds = {"training": round(trained - started, 1), "validation": round(time.monotonic() - trained, 1)}
    _record(job, recipe, folder, {"seconds": seconds, "device": str(fabric.device), "processes": fabric.world_size})
    _show(job, fold, folder, scores)
    fabric.barrier()


def _settle_recipe(job: _Job, fold: Fold, fabric: Fabric, progress: Progress) -> Recipe:
    """The Recipe on disk when resuming, else a new one, written before the first step; the same in every process."""
    from medseg.preprocessing.store import data_hash
    from medseg.training.recipe import Recipe

    path = job.workspace.fold(job.name, fold) / "recipe.json"
    earlier = _earlier_recipe(job, fold)
    if earlier is None:
        recipe = _new_recipe(job, fold, fabric, progress)
        if fabric.is_global_zero:
            recipe.save(path)
        fabric.barrier()
        return Recipe.load(path)
    if earlier.devices != fabric.world_size:
        raise CheckpointError(
            f"{path.parent} was begun with {earlier.devices} process(es) and can't go on with {fabric.world_size}, "
            f"which would draw other patches. Use devices={earlier.devices}, or begin anew with restart=true."
        )
    if earlier.data != data_hash(job.prepared, (*earlier.training_cases, *earlier.validation_cases)):
        raise CheckpointError(
            f"Images or labels have changed since {path.parent} was begun. Put the old files back, or begin anew with "
            "restart=true."
        )
    return earlier


def _new_recipe(job: _Job, fold: Fold, fabric: Fabric, progress: Progress) -> Recipe:
    import torch

    from medseg.inference.model import preparation_of
    from medseg.preprocessing.store import data_hash, shaping_hash
    from medseg.training.budget import iterations_within, seconds_per_iteration
    from medseg.training.recipe import Recipe, settle_optimizer

    training = job.plan.training
    given = job.settings.budget is not None
    iterations = job.settings.iterations or (None if given else training.iterations)
    budget = job.settings.budget if job.settings.budget is not None else training.budget
    if iterations is None and not budget:
        raise SettingsError("Neither iterations nor a budget above 0 is known; give one, for example budget=15min.")
    train_cases, held_out = (tuple(case.name for case in cases) for cases in _cases(job, fold))

    def recipe(steps: int, measured: float | None) -> Recipe:
        settled = {"iterations": steps, "budget": budget, "optimizer": settle_optimizer(training.optimizer, steps)}
        return Recipe(
            configuration_name=job.name,
            configuration=job.configuration,
            training=training.model_copy(update=settled),
            fold=fold,
            channels=len(job.plan.channels),
            classes=len(job.table),
            plan=job.plan.content_hash(),
            preparation=preparation_of(job.plan),
            shaping=shaping_hash(job.table, job.plan, job.configuration),
            data=data_hash(job.prepared, (*train_cases, *held_out)),
            training_cases=train_cases,
            validation_cases=held_out,
            seconds_per_iteration=measured,
            threads=torch.get_num_threads(),
            devices=fabric.world_size,
        )

    if iterations is not None:
        return recipe(iterations, None)
    assert budget is not None  # checked above
    progress.note("Measuring how long an iteration takes ...")
    started = time.monotonic()
    probe_seconds = min(max(_PROBE_SHARE * budget, _PROBE_SECONDS[0]), _PROBE_SECONDS[1])
    workers = _workers(job.settings, fabric)
    each = seconds_per_iteration(fabric, recipe(1_000, None), job.prepared, probe_seconds, workers)
    each = float(f"{fabric.broadcast(each):.3g}")
    return recipe(iterations_within(budget, each, time.monotonic() - started), each)


def _workers(settings: TrainSettings, fabric: Fabric) -> int:
    if settings.workers >= 0:
        return settings.workers
    return 0 if fabric.device.type == "cpu" else min(4, max((os.cpu_count() or 2) // 2, 1))


def _tracker(job: _Job, folder: Path) -> Any:
    if not job.settings.tensorboard:
        return None
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise SettingsError("tensorboard=true needs an extra: pip install 'medseg[tensorboard]'.") from None
    return SummaryWriter(str(folder / "tensorboard"))


def _record(job: _Job, recipe: Recipe, folder: Path, facts: Mapping[str, Any]) -> None:
    values = job.settings.model_dump(mode="json") | {"recipe": recipe.content()}
    sources = {name: "words" if name in job.words else "default" for name in TrainSettings.model_fields}
    for part, content in (("configuration", recipe.configuration), ("training", recipe.training)):
        for key in leaf_keys(content.model_dump(mode="json", exclude_none=True)):
            sources[f"recipe.{part}.{key}"] = "words" if key in job.words else "plan"
    record_run(folder / "run.json", "train", job.words, values, sources, facts)


def _show(job: _Job, fold: Fold, folder: Path, scores: Scores | None) -> None:
    from medseg.evaluation.pictures import draw_curves
    from medseg.training.recorder import read_log

    draw_curves(folder / "curves.png", read_log(folder / "log.csv"))
    if scores is not None:
        columns, rows = as_rows(scores)
        table(f"Held-out cases of fold {fold}, {job.name}", columns, rows)
        say(f"Image, labels and prediction side by side: {folder / 'worst_case.png'}, {folder / 'best_case.png'}")
    say(f"Training curves: {folder / 'curves.png'}\nNext: medseg predict input=DIR output=DIR")
