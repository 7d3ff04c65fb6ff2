"""Dice of a structure under 0.05 % of the volume, with and without what is meant to help it, on held-out phantoms.

Run from the project's folder on a quiet machine: ``python tests/benchmarks/small_structures.py``. It draws the phantoms
(``phantom_rare``: a lesion of about ninety voxels), trains one and the same network on half of them for every way and
every seed, the same number of iterations each, and prints the mean Dice of each structure on the other half, and the
difference to the first way with its 95 % interval (held-out cases resampled, the mean of the seeds each). The patch is
smaller than a case, as it is in real data, and nothing is mirrored, which would make validation eight times as long.
Words as for medseg: ``ways=without,proposal``, ``iterations=800``, ``seeds=3``, ``folder=DIR`` (what is done there
already is not done again); all others go to ``medseg train``.
"""

import sys

import numpy as np

from medseg.cases.phantoms import load_recipe, write_phantoms
from medseg.paths import Workspace

from trials import described, folder_of, run, trained

OFF = {
    "sampling.balanced": "false",
    "sampling.size_aware": "false",
    "sampling.copy_paste": "0",
    "sampling.hard_patches": "0",
    "loss": "dice_ce",
}
WAYS: dict[str, dict[str, str]] = {
    "without": OFF,
    "proposal": {},  # the plan as it is
    "sampling": OFF | {"sampling.balanced": "true", "sampling.size_aware": "true"},
    "copies": OFF | {"sampling.copy_paste": "0.5", "sampling.rare": '["lesion"]'},
    "hard": OFF | {"sampling.hard_patches": "0.3"},
    "skeleton": OFF | {"loss": "dice_ce+skeleton_recall"},
}
WORDS = {"recipe": "phantom_rare", "ways": "without,proposal", "iterations": "800", "seeds": "3", "folder": ""}
TRAINING = {"device": "cpu", "patch_size": "[24,32,32]", "network.base_features": "8", "mirror_axes": "[]"}


def compare(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    words = WORDS | {key: value for key, value in given.items() if key in WORDS}
    more = TRAINING | {key: value for key, value in given.items() if key not in WORDS}
    place = folder_of(words["folder"], "small")
    workspace, recipe = Workspace(place / "W"), load_recipe(words["recipe"])
    if not workspace.plan.is_file():
        data = write_phantoms(recipe, place / "data")
        planned = ["device=cpu", "folds=2", "small_structures=apply"]
        run("plan", f"dataset={data}", f"workspace={workspace.folder}", *planned)
    found: dict[str, list[np.ndarray]] = {way: [] for way in words["ways"].split(",")}
    for seed in range(1, int(words["seeds"]) + 1):
        for way, results in found.items():
            own = [f"{key}={value}" for key, value in (WAYS[way] | more).items()]
            own += [f"iterations={words['iterations']}", f"seed={seed}"]
            results.append(trained(workspace, place / f"{way}_{seed}.json", *own))
            print(f"seed {seed}, {way}: {np.nanmean(results[-1], axis=0).round(4)}", flush=True)
    first, *others = found
    cases = len(found[first][0])
    print(f"\n{cases} held-out cases of {recipe.name}, {words['iterations']} iterations, {words['seeds']} seeds, Dice")
    means = {way: np.nanmean(np.stack(results), axis=0) for way, results in found.items()}
    for number, name in enumerate(recipe.table.target_names):
        print(f"{name:<10}{first:<12}{described(means[first][:, number])}")
        for way in others:
            difference = described(means[way][:, number] - means[first][:, number])
            print(f"{'':<10}{way:<12}{described(means[way][:, number])}   difference {difference}")
    print(f"Everything is in {place}.")


if __name__ == "__main__":
    compare(sys.argv[1:])
