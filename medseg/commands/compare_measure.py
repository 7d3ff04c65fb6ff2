"""What the trainings of a comparison are worth: scores of the held-out Cases, calibration, and cost.

Knows nothing of how they were started.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.cases.case import Case, read_case_image, read_case_labels
from medseg.commands.compare_trials import Comparison, Member
from medseg.evaluation.calibration import CalibrationCounts, class_outcomes, region_outcomes
from medseg.evaluation.comparison import Compared
from medseg.evaluation.scores import Scores
from medseg.evaluation.trials import METRICS, Metric, Trial, Trials, compare_metric
from medseg.inference.bundle import open_model
from medseg.inference.devices import choose_device
from medseg.inference.model import Networks
from medseg.inference.predict import Options, probability_rows
from medseg.planning.memory import parameter_count
from medseg.progress import Progress
from medseg.run_record import RunRecord
from medseg.training.recipe import Recipe
from medseg.uncertainty.sample import in_doubt


def measure(comparison: Comparison, members: Sequence[Member], progress: Progress) -> Trials:
    """Compare what is trained; what takes long (calibration) is kept beside each training."""
    scores: dict[str, list[Scores]] = {choice: [] for choice in comparison.choices}
    for member in members:
        scores[member.choice].append(Scores.load(_fold(comparison, member) / "scores.json"))
    metrics: dict[Metric, dict[str, Compared]] = {
        metric: compare_metric(scores, metric, comparison.reference) for metric in METRICS
    }
    device = choose_device(comparison.device)
    trials = []
    for choice in comparison.choices:
        own = [member for member in members if member.choice == choice]
        found = dict[Metric, Compared]((metric, one[choice]) for metric, one in metrics.items() if choice in one)
        errors = [_calibration_error(comparison, member, Options(device), progress) for member in own]
        dice = {member.seed: one.mean_dice or 0.0 for member, one in zip(own, scores[choice], strict=True)}
        cost = _cost(comparison, own)
        trials.append(Trial(name=choice, metrics=found, seeds=dice, ece=float(np.mean(errors)), **cost))
    cases = tuple(case.case for case in scores[comparison.reference][0].cases)
    return Trials(
        compared=comparison.what,
        configuration=comparison.job.name,
        fold=comparison.fold,
        reference=comparison.reference,
        cases=cases,
        device=str(device),
        budget=comparison.told_budget,
        trials=tuple(sorted(trials, key=lambda one: -one.metrics["dice"].dice)),
    )


def _fold(comparison: Comparison, member: Member) -> Path:
    return member.workspace.fold(comparison.job.name, comparison.fold)


def _cost(comparison: Comparison, members: Sequence[Member]) -> dict[str, Any]:
    """Of a choice's trainings: the largest memory, the mean of the times."""
    facts = [RunRecord.load(_fold(comparison, member) / "run.json").facts for member in members]
    recipes = [Recipe.load(_fold(comparison, member) / "recipe.json") for member in members]
    steps = [max(one["steps"], 1) for one in facts]
    memory = [one["peak_memory_bytes"] for one in facts]
    on_cpu = all(one["device"] == "cpu" for one in facts)
    cases = [max(len(recipe.validation_cases), 1) for recipe in recipes]
    cpu = [one["training_cpu_seconds"] / n for one, n in zip(facts, steps, strict=True)]
    wall = [one["seconds"]["training"] / n for one, n in zip(facts, steps, strict=True)]
    validation = [one["seconds"]["validation"] / n for one, n in zip(facts, cases, strict=True)]
    plan = recipes[0].configuration.network
    return {
        "parameters": parameter_count(plan, recipes[0].channels, recipes[0].classes),
        "peak_memory_bytes": None if None in memory else max(memory),
        "cpu_seconds_per_iteration": float(np.mean(cpu)) if on_cpu else None,
        "seconds_per_iteration": float(np.mean(wall)),
        "seconds_per_case": float(np.mean(validation)),
        "iterations": {member.seed: recipe.iterations for member, recipe in zip(members, recipes, strict=True)},
        "resumed": any(one["steps"] < recipe.iterations for one, recipe in zip(facts, recipes, strict=True)),
    }


def _calibration_error(comparison: Comparison, member: Member, options: Options, progress: Progress) -> float:
    model = open_model(member.workspace.folder)
    networks = model.load(comparison.job.name, [comparison.fold], options.device)
    recipe = Recipe.load(_fold(comparison, member) / "recipe.json")
    known = {case.name: case for case in comparison.job.dataset.cases}
    counts = CalibrationCounts()
    progress.start(f"Calibration of {member.choice}", len(recipe.validation_cases))
    for name in recipe.validation_cases:
        counts = counts + _count(known[name], networks, options)
        progress.advance()
    progress.finish()
    return counts.scores().ece


def _count(case: Case, networks: Networks, options: Options) -> CalibrationCounts:
    """Outcomes of the annotated voxels of a Case that are, or may well be, in a structure."""
    table, counts = networks.labels, CalibrationCounts()
    image = read_case_image(case, len(networks.plan.channels))
    truth = read_case_labels(case, table, image)
    grid, rows = probability_rows(image, networks, options, case.name)
    box = tuple(slice(low, low + size) for low, size in zip(grid.crop_lower, grid.cropped_shape, strict=True))
    exclusive = table.activation == "softmax"
    for probabilities, true in zip(rows, grid.orient(truth.array)[box], strict=True):
        found = probabilities.cpu().numpy().reshape(len(probabilities), -1)
        right = true.reshape(-1)
        masks = np.stack([target.mask(right) for target in table.targets])
        known = np.ones(right.shape, bool) if table.ignore_index is None else right != table.ignore_index
        kept = known & (in_doubt(found, exclusive) | masks.any(axis=0))
        if not kept.any():
            continue
        inside = found[:, kept]
        counts.add(
            class_outcomes(inside, right[kept].astype(np.int64))
            if exclusive
            else region_outcomes(inside, masks[:, kept])
        )
    return counts
