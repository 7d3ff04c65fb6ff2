"""Dice with 20 labelled cases, begun from random weights and from a network that has restored unlabelled images.

Run from the project's folder, with MEDSEG_REAL_DATA naming the folder that holds ``hippocampus``, on a quiet machine:
``python tests/benchmarks/pretraining.py``. Of the cases of fold 0's training part 20 keep their labels, the others are
images only. ``medseg pretrain`` restores all of these images; then every seed trains on the 20 twice, alike but for the
start. It prints the mean Dice of held-out cases, and the difference with its 95 % interval (cases resampled, the mean
of the seeds each). What pre-training takes comes on top: ``ways=random,pretrained,longer`` also gives random weights as
many more iterations. Words: ``labelled=20``, ``held_out=20``, ``iterations=150``, ``before=500`` (of the pre-training),
``seeds=3``, ``folder=DIR`` (what is done there already is not done again); all others go to ``medseg train``.
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.cases.dataset import Dataset
from medseg.cases.folds import Fold, Folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.paths import Workspace

from trials import described, dice_of, run

WORDS = {"labelled": "20", "held_out": "20", "iterations": "150", "before": "500", "seeds": "3", "folder": ""}
WORDS |= {"ways": "random,pretrained"}
TRAINING = {"device": "cpu", "network.base_features": "8", "augmentation.mirror": "false"}
"""A small network; without mirror images the held-out cases are predicted eight times as fast."""


def take_labels(workspace: Workspace, labelled: int, held_out: int) -> None:
    """Leave labels to so many evenly spaced cases of fold 0's training part, and so many to be held out."""
    dataset, folds = read_dataset(workspace.dataset), Folds.load(workspace.folds)
    training, validation = (
        spread(list(names), count) for names, count in zip(folds.split(0), (labelled, held_out), strict=True)
    )
    named = {case.name: case for case in dataset.cases}
    cases = tuple(named[name] for name in sorted((*training, *validation)))
    others = tuple(replace(named[name], labels=None) for name in folds.split(0)[0] if name not in training)
    save_dataset(Dataset(dataset.name, dataset.channels, dataset.labels, cases, others), workspace.dataset)
    groups = {case.name: folds.cases[case.name] for case in cases}
    held = Fold(validation=tuple(validation))
    folds.model_copy(update={"cases": groups, "folds": (held,)}).save(workspace.folds)


def spread(names: list[str], count: int) -> list[str]:
    return [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]


def benchmark(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    words = WORDS | {key: value for key, value in given.items() if key in WORDS}
    more = [f"{key}={value}" for key, value in (TRAINING | given).items() if key not in WORDS]
    place = Path(words["folder"] or tempfile.mkdtemp(prefix="medseg-pretraining-"))
    workspace = Workspace(place / "W")
    if not workspace.plan.is_file():
        dataset = Path(os.environ["MEDSEG_REAL_DATA"]) / "hippocampus"
        run("plan", f"dataset={dataset}", f"workspace={workspace.folder}", "device=cpu")
        take_labels(workspace, int(words["labelled"]), int(words["held_out"]))
    start = workspace.folder / "pretrained"
    if not list(start.glob("*/fold_0/run.json")):
        resume = (
            ["resume=true"] if list(start.glob("*/fold_0/recipe.json")) else [f"iterations={words['before']}", *more]
        )
        run("pretrain", f"workspace={workspace.folder}", *resume)
    longer = str(int(words["iterations"]) + int(words["before"]))
    own = {"random": [], "pretrained": [f"init_from={start}"], "longer": [f"iterations={longer}"]}
    found: dict[str, list[np.ndarray]] = {way: [] for way in words["ways"].split(",")}
    for seed in range(1, int(words["seeds"]) + 1):
        for way, results in found.items():
            kept = place / f"{way}_{seed}.json"
            if not kept.is_file():
                shared = [f"workspace={workspace.folder}", f"seed={seed}", "restart=true", *more]
                run(
                    "train",
                    *shared,
                    *(own[way] if way == "longer" else [f"iterations={words['iterations']}", *own[way]]),
                )
                (fold,) = workspace.folder.glob("3d_fullres/fold_0")
                kept.write_bytes((fold / "scores.json").read_bytes())
            results.append(np.nanmean(dice_of(kept), axis=1))
            print(f"seed {seed}, {way}: {results[-1].mean():.4f}", flush=True)
    first, *others = (np.mean(results, axis=0) for results in found.values())
    names = list(found)
    print(f"\n{words['labelled']} labelled cases, {len(first)} held out, {words['iterations']} iterations each, Dice")
    print(f"{names[0]:<12}{described(first)}")
    for name, means in zip(names[1:], others, strict=True):
        print(f"{name:<12}{described(means)}   difference {described(means - first)}")
    print(f"Everything is in {place}.")


if __name__ == "__main__":
    benchmark(sys.argv[1:])
