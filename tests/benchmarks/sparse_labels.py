"""Dice with a tenth of the slices annotated against Dice with all of them, on held-out phantoms with full labels.

Run from the project's folder on a quiet machine: ``python tests/benchmarks/sparse_labels.py``. It draws the phantoms
(``phantom_tumour``: three nested regions), trains one and the same network on fold 0 with full and with sparse labels,
the same number of iterations each, for every seed, and prints the mean Dice of each region and the difference with its
95 % interval (held-out cases resampled, the mean of the seeds each). Words as for medseg: ``recipe=phantom_abdomen``,
``iterations=400``, ``seeds=3``, ``annotated=0.1``, ``cases=40``, ``folder=DIR``; all others go to ``medseg train``.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from medseg.cases.phantoms import load_recipe, write_phantoms
from medseg.evaluation.scores import Scores
from medseg.planning.plan import Plan

from trials import described, run

WORDS = {"recipe": "phantom_tumour", "iterations": "400", "seeds": "3", "annotated": "0.1", "cases": "40", "folder": ""}
SPACING = (5.0, 4.0, 4.0)
"""Coarse, so that an iteration takes half a second on two cores."""


def train_and_score(place: Path, labels: str, seed: int, iterations: str, more: dict[str, str]) -> np.ndarray:
    """Dice (cases, targets) of fold 0's held-out cases against their full labels."""
    workspace = place / f"{labels}_{seed}"
    shutil.rmtree(workspace, ignore_errors=True)
    run("plan", f"dataset={place / labels}", f"workspace={workspace}", "device=cpu")
    shared = place / "configurations.yaml"
    plan = Plan.load(workspace / "plan.yaml")
    if shared.is_file():
        # The speed that a plan measures differs from moment to moment; both have to train one and the same network.
        plan = plan.model_copy(update={"configurations": Plan.load(shared).configurations})
        plan.save(workspace / "plan.yaml")
    else:
        plan.save(shared)
    words = [f"{key}={value}" for key, value in more.items()]
    run("train", f"workspace={workspace}", f"iterations={iterations}", f"seed={seed}", *words)
    predictions = workspace / "3d_fullres/fold_0/validation"
    table = f"label_table={place / 'full' / 'dataset.yaml'}"
    run("evaluate", f"predictions={predictions}", f"labels={place / 'full/labels'}", table, "picture=false")
    scores = Scores.load(predictions / "evaluation/scores.json")
    # A target that neither holds has no Dice and is left out of the means.
    return np.array([[np.nan if one.dice is None else one.dice for one in case.structures] for case in scores.cases])


def compare(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    words = WORDS | {key: value for key, value in given.items() if key in WORDS}
    more = {"device": "cpu"} | {key: value for key, value in given.items() if key not in WORDS}
    place = Path(words["folder"] or tempfile.mkdtemp(prefix="medseg-sparse-"))
    (place / "configurations.yaml").unlink(missing_ok=True)
    recipe = load_recipe(words["recipe"]).model_copy(update={"cases": int(words["cases"]), "spacing": SPACING})
    sparse = recipe.model_copy(update={"ignore": 255, "annotated": float(words["annotated"])})
    write_phantoms(recipe, place / "full")
    write_phantoms(sparse, place / "sparse")
    found: dict[str, list[np.ndarray]] = {"full": [], "sparse": []}
    for seed in range(1, int(words["seeds"]) + 1):
        for labels, results in found.items():
            results.append(train_and_score(place, labels, seed, words["iterations"], more))
    names = recipe.table.target_names
    print(f"\n{len(found['full'][0])} held-out cases of {recipe.name}, {words['iterations']} iterations")
    for number, (full, part) in enumerate(zip(found["full"], found["sparse"], strict=True), start=1):
        print(f"seed {number}: full {np.nanmean(full):.4f}, sparse {np.nanmean(part):.4f}")
    full, part = (np.nanmean(np.stack(found[labels]), axis=0) for labels in ("full", "sparse"))
    print(f"{'Dice, mean of the seeds':<26}{'full labels':<27}{'annotated ' + words['annotated']:<27}difference")
    for place_of, name in enumerate(names):
        columns = (full[:, place_of], part[:, place_of], part[:, place_of] - full[:, place_of])
        print(f"{name:<26}" + "".join(f"{described(column):<27}" for column in columns))
    columns = (np.nanmean(full, 1), np.nanmean(part, 1), np.nanmean(part, 1) - np.nanmean(full, 1))
    print(f"{'mean':<26}" + "".join(f"{described(column):<27}" for column in columns))
    print(f"Everything is in {place}.")


if __name__ == "__main__":
    compare(sys.argv[1:])
