"""Dice of the cascade against Dice of the low-resolution network before it, on the same held-out phantoms.

Run from the project's folder: ``python tests/benchmarks/cascade.py``. It plans ``phantom_large``,
whose images are far larger than a patch, trains both folds of 3d_lowres and the first of 3d_cascade_fullres, and prints
both means and their difference with its 95 % interval (held-out cases resampled). Words: ``iterations=300``,
``cases=12``, ``folder=DIR``; all others go to ``medseg train``.
"""

import sys
import tempfile
from pathlib import Path

from medseg.cases.labels import LabelTable
from medseg.cases.phantoms import load_recipe, write_phantoms
from medseg.evaluation.comparison import compare
from medseg.paths import Workspace
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Plan
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan

from trials import dice_of, run

SPEED = 40e9
"""FLOPs per second: two cores, so that an iteration takes about a second and a patch is far smaller than an image."""
WORDS = {"iterations": "300", "cases": "12", "folder": ""}


def plan_for(workspace: Workspace, flops_per_second: float) -> None:
    """Plan anew for a machine of this speed: what is compared must not follow how busy this one was when measured."""
    plan = Plan.load(workspace.plan)
    machine = plan.machine.model_copy(update={"flops_per_second": flops_per_second})
    fingerprint, labels = Fingerprint.load(workspace.fingerprint), LabelTable.load(workspace.labels)
    make_plan(fingerprint, labels, load_preset(plan.preset), machine).save(workspace.plan)


def benchmark(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    words = WORDS | {key: value for key, value in given.items() if key in WORDS}
    more = [f"{key}={value}" for key, value in given.items() if key not in WORDS]
    place = Path(words["folder"] or tempfile.mkdtemp(prefix="medseg-cascade-"))
    recipe = load_recipe("phantom_large").model_copy(update={"cases": int(words["cases"])})
    workspace = place / "work"
    dataset = write_phantoms(recipe, place / "phantoms")
    run("plan", f"dataset={dataset}", f"workspace={workspace}", "preset=cpu", "folds=2")
    plan_for(Workspace(workspace), SPEED)
    # Without mirror images the held-out cases are predicted eight times as fast, for both alike.
    train = ["train", f"workspace={workspace}", f"iterations={words['iterations']}", "augmentation.mirror=false"]
    train += ["device=cpu", *more]
    run(*train, "configuration=3d_lowres", "fold=all")
    run(*train, "configuration=3d_cascade_fullres", "fold=0")
    tables = {name: dice_of(workspace / name / "fold_0/scores.json") for name in ("3d_lowres", "3d_cascade_fullres")}
    for one in compare(tables, "3d_lowres"):
        difference = "" if one.difference_low is None else f", difference {one.difference:+.4f} "
        interval = "" if one.difference_low is None else f"[{one.difference_low:+.4f}, {one.difference_high:+.4f}]"
        print(f"{one.name}: Dice {one.dice:.4f} [{one.low:.4f}, {one.high:.4f}]{difference}{interval}")


if __name__ == "__main__":
    benchmark(sys.argv[1:])
