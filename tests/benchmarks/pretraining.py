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
from pathlib import Path

from medseg.paths import Workspace

from trials import fewer_cases, folder_of, run, trained, write_differences

WORDS = {"labelled": "20", "held_out": "20", "iterations": "150", "before": "500", "seeds": "3", "folder": ""}
WORDS |= {"ways": "random,pretrained"}
TRAINING = {"device": "cpu", "patch_size": "[24,32,24]", "network.base_features": "8", "augmentation.mirror": "false"}
"""A small network; without mirror images the held-out cases are predicted eight times as fast."""


def benchmark(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    words = WORDS | {key: value for key, value in given.items() if key in WORDS}
    more = [f"{key}={value}" for key, value in (TRAINING | given).items() if key not in WORDS]
    place = folder_of(words["folder"], "pretraining")
    workspace = Workspace(place / "W")
    if not workspace.plan.is_file():
        dataset = Path(os.environ["MEDSEG_REAL_DATA"]) / "hippocampus"
        run("plan", f"dataset={dataset}", f"workspace={workspace.folder}", "device=cpu")
        fewer_cases(workspace, held_out=int(words["held_out"]), labelled=int(words["labelled"]))
    start = workspace.folder / "pretrained"
    if not list(start.glob("*/fold_0/run.json")):
        begun = list(start.glob("*/fold_0/recipe.json"))
        own = ["resume=true"] if begun else [f"iterations={words['before']}", *more]
        run("pretrain", f"workspace={workspace.folder}", *own)
    longer = int(words["iterations"]) + int(words["before"])
    ways = {"random": [f"iterations={words['iterations']}"], "longer": [f"iterations={longer}"]}
    ways["pretrained"] = [*ways["random"], f"init_from={start}"]
    found = {way: [] for way in words["ways"].split(",")}
    for seed in range(1, int(words["seeds"]) + 1):
        for way, results in found.items():
            results.append(trained(workspace, place / f"{way}_{seed}.json", f"seed={seed}", *ways[way], *more))
            print(f"seed {seed}, {way}: {results[-1].mean():.4f}", flush=True)
    write_differences(f"{words['labelled']} labelled cases, {words['iterations']} iterations each", found)
    print(f"Everything is in {place}.")


if __name__ == "__main__":
    benchmark(sys.argv[1:])
