"""Dice of a light network that learns from labels alone, from a teacher as well, and from the teacher's maps too.

Run from the project's folder, with MEDSEG_REAL_DATA naming the folder that holds ``hippocampus``, on a quiet machine:
``python tests/benchmarks/distillation.py``. A U-Net is trained on fold 0's training part (``before=600`` iterations);
then for every seed and way a ``light`` network, the same number of iterations each. It prints the mean Dice of held-out
cases, and the differences to labels alone with their 95 % intervals (cases resampled, the mean of the seeds each).
Words: ``ways=labels,teacher,maps``, ``iterations=300``, ``held_out=20``, ``seeds=3``, ``folder=DIR`` (what is done
there already is not done again); all others go to ``medseg train``.
"""

import os
import sys
from pathlib import Path

from medseg.paths import Workspace

from trials import fewer_cases, folder_of, run, trained, write_differences

WORDS = {"before": "600", "iterations": "300", "held_out": "20", "seeds": "3", "folder": ""}
WORDS |= {"ways": "labels,teacher,maps"}
TRAINING = {"device": "cpu", "patch_size": "[24,32,24]", "network.base_features": "8", "augmentation.mirror": "false"}
"""Of both; without mirror images the held-out cases are predicted eight times as fast."""


def benchmark(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    words = WORDS | {key: value for key, value in given.items() if key in WORDS}
    more = [f"{key}={value}" for key, value in (TRAINING | given).items() if key not in WORDS]
    place = folder_of(words["folder"], "distillation")
    workspace, teacher = Workspace(place / "W"), place / "teacher"
    if not workspace.plan.is_file():
        dataset = Path(os.environ["MEDSEG_REAL_DATA"]) / "hippocampus"
        run("plan", f"dataset={dataset}", f"workspace={workspace.folder}", "device=cpu")
        fewer_cases(workspace, held_out=int(words["held_out"]))
    before = trained(workspace, place / "before.json", "network.name=unet", f"iterations={words['before']}", *more)
    if not teacher.exists():
        run("bundle", f"workspace={workspace.folder}", f"output={teacher}")
    print(f"the teacher: {before.mean():.4f}", flush=True)
    learns = {"labels": [], "teacher": [f"teacher={teacher}"]}
    learns["maps"] = [*learns["teacher"], "distillation.features=0.3"]
    found = {way: [] for way in words["ways"].split(",")}
    for seed in range(1, int(words["seeds"]) + 1):
        for way, results in found.items():
            own = ["network.name=light", f"seed={seed}", f"iterations={words['iterations']}", *learns[way], *more]
            results.append(trained(workspace, place / f"{way}_{seed}.json", *own))
            print(f"seed {seed}, {way}: {results[-1].mean():.4f}", flush=True)
    write_differences(f"{words['iterations']} iterations of a light network each", found)
    print(f"Everything is in {place}.")


if __name__ == "__main__":
    benchmark(sys.argv[1:])
