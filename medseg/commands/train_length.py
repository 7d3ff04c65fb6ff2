"""How long a training goes on: a time becomes a number of iterations, and a training on disk gets another length.

What was measured or asked for is settled in the Recipe before the first step, and then only read.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.commands.train_job import LENGTH_WORDS, TrainJob, TrainSettings
from medseg.commands.train_teacher import load_teachers
from medseg.errors import SettingsError
from medseg.planning.plan import TrainingPlan
from medseg.progress import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from medseg.training.checkpoint import Course
    from medseg.training.recipe import Recipe
    from medseg.training.schedule import Part, Stretch

_PROBE_SECONDS = (3.0, 10.0)
_PROBE_SHARE = 0.03
_WORTH_STOPPING_SECONDS = 3600.0
"""A shorter training could save minutes at most, and would spend a tenth of its time on watching for them."""


def stops_early(training: TrainingPlan, budget: float | None) -> bool:
    """Whether a plateau should end a training: as asked, else from an hour on; never where iterations are given, nor
    where several snapshots were laid out over it."""
    if training.snapshots > 1:
        return False
    if training.early_stop is not None:
        return training.early_stop
    return budget is not None and budget >= _WORTH_STOPPING_SECONDS


def settle_part(job: TrainJob, recipe: Recipe, stretch: Stretch, early_stop: bool) -> Part:
    """A stretch with its checks of held-out Cases."""
    from medseg.training.schedule import Part
    from medseg.training.watch import settle_watch

    span = stretch.end - stretch.start
    held_out, seed = recipe.watchable_cases, recipe.training.seed
    watch = settle_watch(recipe.configuration, held_out, job.prepared, span, recipe.devices, seed)
    return Part(stretch=stretch, watch=watch, early_stop=early_stop)


def iterations_in_time(
    job: TrainJob, recipe: Recipe, budget: float, spent: float, fabric: Fabric, progress: Progress
) -> tuple[int, float]:
    """The iterations that fit in what is left of a budget (seconds), checks included, and the seconds of each.

    Measured on a throw-away network; the time that takes counts as spent.
    """
    from medseg.training.budget import iterations_within, seconds_per_iteration
    from medseg.training.watch import settle_watch, share_of_time

    progress.note("Measuring how long an iteration takes ...")
    started = time.monotonic()
    probe_seconds = min(max(_PROBE_SHARE * budget, _PROBE_SECONDS[0]), _PROBE_SECONDS[1])
    workers = loader_workers(job.settings, fabric)
    teachers = load_teachers(recipe, fabric.device)
    each = seconds_per_iteration(fabric, recipe, job.prepared, probe_seconds, workers, teachers)
    each = float(f"{fabric.broadcast(each):.3g}")
    spent += time.monotonic() - started
    configuration, held_out, devices = recipe.configuration, recipe.watchable_cases, recipe.devices
    unwatched = iterations_within(budget, each, spent)
    watch = settle_watch(configuration, held_out, job.prepared, unwatched, devices, recipe.training.seed)
    share = share_of_time(watch, configuration, job.prepared, devices)
    return iterations_within(budget, each * (1 + share), spent), each


def extend(job: TrainJob, earlier: Recipe, folder: Path, fabric: Fabric, progress: Progress) -> Recipe:
    """The Recipe with the length that the words ask for; the Recipe itself where they ask for nothing new.

    Both numbers count from the very beginning of the training. Raises SettingsError for a length that is over already.
    """
    from medseg.training.checkpoint import load_newest
    from medseg.training.course import Course
    from medseg.training.recipe import optimizer_for_length
    from medseg.training.schedule import Schedule, continued_stretch

    if not LENGTH_WORDS & set(job.words):
        return earlier
    newest = load_newest(folder, earlier)
    course = newest[0].course if newest else Course()
    if _is_settled(job, earlier.parts[-1], course):
        return earlier
    if earlier.training.snapshots > 1:
        raise SettingsError(
            f"{folder} keeps {earlier.training.snapshots} snapshots, which were laid out over {earlier.iterations} "
            "iterations. Leave iterations= and budget= out, or begin anew with restart=true."
        )
    iterations, each = _asked(job, earlier, course, folder, fabric, progress)
    optimizer = optimizer_for_length(earlier.training.optimizer, earlier.parts[0].stretch.end, iterations)
    stretch = continued_stretch(Schedule(earlier.parts, course.decays), course.iteration, optimizer, iterations)
    budget = None if job.settings.iterations else job.settings.budget
    training = job.plan.training if "early_stop" in job.words else earlier.training
    part = settle_part(job, earlier, stretch, stops_early(training, budget)).model_copy(
        update={"budget": budget, "seconds_per_iteration": each}
    )
    if fabric.is_global_zero:
        _forget_scores(folder)
    progress.note(
        f"{folder} goes on from iteration {course.iteration} to {iterations} instead of {earlier.iterations}; the "
        f"learning rate decays from {stretch.rate:.2g} to 0."
    )
    return earlier.model_copy(update={"parts": (*earlier.parts, part)})


def _is_settled(job: TrainJob, part: Part, course: Course) -> bool:
    """Whether the words ask for what the newest part of the Recipe already says."""
    if "early_stop" in job.words and job.plan.training.early_stop != part.early_stop:
        return False
    ended_early = any(decay.start > part.stretch.start for decay in course.decays)
    if job.settings.iterations:
        return job.settings.iterations == part.stretch.end and not ended_early
    if job.settings.budget is not None:
        return job.settings.budget == part.budget and not ended_early
    return True


def _asked(
    job: TrainJob, earlier: Recipe, course: Course, folder: Path, fabric: Fabric, progress: Progress
) -> tuple[int, float | None]:
    """The new number of iterations in all, and the seconds of each where they were measured."""
    from medseg.training.recorder import read_log

    if job.settings.budget is None or job.settings.iterations:
        iterations = job.settings.iterations or earlier.iterations
        if iterations <= course.iteration:
            raise SettingsError(
                f"{folder} has done {course.iteration} iterations already, so iterations={iterations} leaves nothing "
                "to do. Give the number of all iterations, those done included."
            )
        return iterations, None
    rows = read_log(folder / "log.csv")
    spent = max((row["seconds"] or 0.0 for row in rows if (row["iteration"] or 0) <= course.iteration), default=0.0)
    if job.settings.budget <= spent:
        raise SettingsError(
            f"{folder} has trained for {spent / 60:.3g} min already, so budget={job.words['budget']} leaves nothing to "
            "do. Give the time in all, what is spent included."
        )
    further, each = iterations_in_time(job, earlier, job.settings.budget, spent, fabric, progress)
    return course.iteration + further, each


def _forget_scores(folder: Path) -> None:
    """What was found with the earlier weights would be taken for the result of the new ones."""
    for name in ("scores.json", "scores.csv", "best_case.png", "worst_case.png"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "validation", ignore_errors=True)


def loader_workers(settings: TrainSettings, fabric: Fabric) -> int:
    """Processes that load patches: as asked, or none on a CPU and up to 4 with a GPU."""
    if settings.workers >= 0:
        return settings.workers
    return 0 if fabric.device.type == "cpu" else min(4, max((os.cpu_count() or 2) // 2, 1))
