"""``medseg train``: prepare the data, train a fold, predict its held-out cases and score them.

A minute on a CPU after ``medseg plan``: ``medseg train fold=0 budget=1min``
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.commands.console import Bar, say, table
from medseg.commands.train_cascade import prepare_before
from medseg.commands.train_job import SETTINGS, Fold, TrainJob, TrainSettings, cases_of, read_job, require_startable
from medseg.commands.train_length import loader_workers
from medseg.commands.train_recipe import settle_recipe
from medseg.commands.train_start import first_weights, require_usable
from medseg.commands.train_teacher import load_teachers
from medseg.errors import SettingsError
from medseg.evaluation.scores import Scores, as_rows
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.reasons import leaf_keys
from medseg.progress import Progress, Silent
from medseg.run_record import record_run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.course import Course
    from medseg.training.recipe import Recipe


__all__ = ["SETTINGS", "launch", "prepare", "record", "run"]


def run(words: Mapping[str, str]) -> None:
    """Train the asked folds; each ends with its scores and pictures."""
    job = read_job(words)
    settings = job.settings
    chosen: list[Fold] = list(range(len(job.folds.folds))) if settings.fold == "all" else [settings.fold]
    for fold in chosen:
        require_startable(job, fold)
        require_usable(job, job.workspace.fold(job.name, fold))
    # Processes that Fabric starts for more devices run this same command; only the first one speaks.
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    with Bar() if first else nullcontext(Silent()) as progress:
        prepare(job, chosen, progress)
        fabric = launch(settings)
        for fold in chosen:
            _train_one(job, fold, fabric, progress if fabric.is_global_zero else Silent())


def prepare(job: TrainJob, chosen: Sequence[Fold], progress: Progress) -> None:
    """Prepare the Cases of the chosen folds, as far as that has not been done."""
    from medseg.preprocessing.store import prepare_cases

    needed = {case.name: case for fold in chosen for cases in cases_of(job, fold) for case in cases}
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cases = [needed[name] for name in sorted(needed)]
    executor = job.settings.chosen(min(workers, 8))
    prepare_cases(cases, job.table, job.plan, job.configuration, job.prepared, executor, progress)
    prepare_before(job, cases, progress)
    if not isinstance(progress, Silent):
        _warn_of_changes(job, needed)


def _warn_of_changes(job: TrainJob, needed: Collection[str]) -> None:
    """One sentence where Cases are not what the plan was made from; the training goes on with what there is."""
    from medseg.preprocessing.store import changed_since

    if not job.workspace.fingerprint.is_file():
        return  # a plan that was brought along
    fingerprint = Fingerprint.load(job.workspace.fingerprint)
    measured = {case.name: case.voxel_hash for case in fingerprint.cases if case.name in needed}
    changed = changed_since(job.prepared, measured)
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        say(
            f"Warning: the plan was made before {', '.join(changed[:5])}{more} changed. Training goes on with the "
            "changed files under the old plan; run 'medseg plan' again where the change is large."
        )


def launch(settings: TrainSettings) -> Fabric:
    """The devices, processes and precision that the settings ask for."""
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


def _train_one(job: TrainJob, fold: Fold, fabric: Fabric, progress: Progress) -> None:
    import torch

    from medseg.inference.devices import peak_memory_bytes
    from medseg.training.fold import train_fold
    from medseg.training.validation import validate_fold

    started = time.monotonic()
    folder = job.workspace.fold(job.name, fold)
    if job.settings.restart and fabric.is_global_zero and folder.exists():
        shutil.rmtree(folder)
    fabric.barrier()
    recipe = settle_recipe(job, fold, fabric, progress)
    torch.set_num_threads(recipe.threads)
    if fabric.is_global_zero:
        optimizer = recipe.training.optimizer
        say(
            f"Fold {fold} of {job.name}: {len(recipe.training_cases)} cases to train, {len(recipe.validation_cases)} "
            f"held out; {recipe.iterations} iterations of {recipe.configuration.batch_size} patches "
            f"{'x'.join(map(str, recipe.configuration.patch_size))} on {fabric.device}, {optimizer.name} at "
            f"{optimizer.learning_rate}. {_about_checks(recipe)}"
        )
    tracker = _tracker(job, folder) if fabric.is_global_zero else None
    workers = loader_workers(job.settings, fabric)
    start, teachers = first_weights(job, recipe, folder), load_teachers(recipe, fabric.device)
    worked = time.process_time()
    every = job.settings.save_every
    done = train_fold(fabric, recipe, job.prepared, folder, progress, workers, every, tracker, start, teachers)
    worked, memory = time.process_time() - worked, peak_memory_bytes(fabric.device)
    if tracker is not None:
        tracker.close()
    trained = time.monotonic()
    if not fabric.is_global_zero:
        fabric.barrier()
        return
    scores = None
    if job.settings.validate_fold and recipe.validation_cases:
        held_out = cases_of(job, fold)[1]
        scores = validate_fold(recipe, done.network, held_out, job.table, job.prepared, folder, fabric.device, progress)
    seconds = {
        "training": round(trained - started, 1),
        "checks": round(done.seconds_of_checks, 1),
        "validation": round(time.monotonic() - trained, 1),
    }
    facts = {"seconds": seconds, "device": str(fabric.device), "processes": fabric.world_size}
    facts |= {"training_cpu_seconds": round(worked, 2), "steps": done.steps, "peak_memory_bytes": memory}
    record(job, recipe, folder, facts)
    _show(job, fold, folder, done.course, scores)
    fabric.barrier()


def _about_checks(recipe: Recipe) -> str:
    part = recipe.parts[-1]
    if part.watch is None:
        why = "nothing is held out" if not recipe.validation_cases else "too few iterations for it"
        return f"No whole case is predicted on the way ({why}), so nothing ends it early."
    count = len(part.watch.cases)
    cases = f"{count} held-out cases are" if count > 1 else "one held-out case is"
    checked = f"Every {part.watch.every} iterations {cases} predicted whole"
    if part.can_stop:
        return f"{checked}; training ends early where their Dice no longer rises (early_stop=false switches this off)."
    return f"{checked}{', too rarely to tell a plateau from noise' if part.early_stop else ''}."


def _tracker(job: TrainJob, folder: Path) -> Any:
    if not job.settings.tensorboard:
        return None
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise SettingsError("tensorboard=true needs an extra: pip install 'medseg[tensorboard]'.") from None
    return SummaryWriter(str(folder / "tensorboard"))


def record(job: TrainJob, recipe: Recipe, folder: Path, facts: Mapping[str, Any], command: str = "train") -> None:
    """Write ``run.json``: every value, where it came from, and what was found out."""
    values = job.settings.model_dump(mode="json") | {"recipe": recipe.content()}
    sources = {name: "words" if name in job.words else "default" for name in TrainSettings.model_fields}
    for part, content in (("configuration", recipe.configuration), ("training", recipe.training)):
        for key in leaf_keys(content.model_dump(mode="json", exclude_none=True)):
            sources[f"recipe.{part}.{key}"] = "words" if key in job.words else "plan"
    record_run(folder / "run.json", command, job.words, values, sources, facts)


def _show(job: TrainJob, fold: Fold, folder: Path, course: Course, scores: Scores | None) -> None:
    from medseg.evaluation.pictures import draw_curves
    from medseg.training.recorder import read_log

    draw_curves(folder / "curves.png", read_log(folder / "log.csv"), [decay.start for decay in course.decays])
    if scores is not None:
        columns, rows = as_rows(scores)
        table(f"Held-out cases of fold {fold}, {job.name}", columns, rows)
        say(f"Image, labels and prediction side by side: {folder / 'worst_case.png'}, {folder / 'best_case.png'}")
    say(f"Training curves: {folder / 'curves.png'}\nNext: medseg view, or medseg predict input=DIR output=DIR")
