"""How well unusual images are told from usual ones: AUROC and false alarms on phantoms, three seeds.

    python tests/benchmarks/out_of_distribution.py [FOLDER] [iterations]

For each seed networks are trained on abdomens of that seed in two folds, 'medseg calibrate' learns what the held-out
ones are like, and new ones are judged: 20 usual patients, and the same patients with something wrong: another modality
(grey levels turned over), flipped from left to right, cropped to half along the body, with three times the noise added,
in another contrast phase, and another body part (an MR-like head). What counts is the AUROC of the score between usual
and unusual images, and how many usual ones are called unusual at the asked 5 %. Mean over seeds and, in brackets, the
95 % interval by Student's t over the three; minutes on two quiet cores. In a FOLDER that was named, a seed that a
killed run has measured is not measured again.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, t

from medseg.cases.phantoms import PhantomRecipe, load_recipe, make_phantom, write_phantoms
from medseg.files import write_text
from medseg.images.volume import Volume
from medseg.inference.bundle import open_model
from medseg.paths import Workspace
from medseg.uncertainty.judge import judge_volume

from trials import run

SEEDS = (1, 2, 3)
CASES, NEW = 20, 20
FIRST_NEW = 1000
"""Number of the first patient that no network has seen."""


def with_array(volume: Volume, array: np.ndarray) -> Volume:
    return Volume(np.ascontiguousarray(array, dtype=np.float32), volume.affine)


def noisy(volume: Volume, random: np.random.Generator) -> Volume:
    return with_array(volume, volume.array + random.normal(0, 60, volume.array.shape))


def cropped(volume: Volume, random: np.random.Generator) -> Volume:
    depth = volume.array.shape[1]
    start = int(random.integers(0, depth - depth // 2 + 1))
    return with_array(volume, volume.array[:, start : start + depth // 2])


CHANGES: dict[str, Callable[[Volume, np.random.Generator], Volume]] = {
    "modality (grey turned over)": lambda volume, _: with_array(volume, 200 - volume.array),
    "flipped left to right": lambda volume, _: with_array(volume, volume.array[..., ::-1]),
    "cropped to half": cropped,
    "noisy (three times)": noisy,
}


def recipes(seed: int) -> tuple[PhantomRecipe, PhantomRecipe, PhantomRecipe]:
    """The abdomens, the same with contrast medium, and heads."""
    small = {"spacing": (10.0, 8.0, 8.0), "seed": seed}
    abdomen = load_recipe("phantom_abdomen").model_copy(update=small)
    # On the same grid: where it lies and how large it is does not give it away.
    like = abdomen.model_dump(include={"spacing", "field_of_view_mm"})
    head = load_recipe("phantom_tumour").model_copy(update={"seed": seed, **like})
    return abdomen, abdomen.model_copy(update={"contrast": 2.0}), head


def scores_of(seed: int, folder: Path, iterations: int) -> tuple[dict[str, list[float]], float, float]:
    """Scores of usual images and of each kind of unusual ones; share of usual ones above the limit, and as stated."""
    abdomen, contrasted, head = recipes(seed)
    if not Workspace(folder / "W").familiarity.is_file():
        learn(abdomen, folder, iterations)
    model = open_model(folder / "W")
    networks, random = model.load(), np.random.default_rng(seed)

    def judged(volume: Volume):
        found = judge_volume(volume, model, networks)
        assert found is not None
        return found

    usual = [make_phantom(abdomen, FIRST_NEW + case)[0] for case in range(NEW)]
    verdicts = [judged(one) for one in usual]
    scores = {"usual": [one.score for one in verdicts]}
    for name, change in CHANGES.items():
        scores[name] = [judged(change(one, random)).score for one in usual]
    for name, recipe in (("other contrast phase", contrasted), ("other body part (head)", head)):
        others = [make_phantom(recipe, FIRST_NEW + case)[0] for case in range(NEW)]
        scores[name] = [judged(with_array(one, one.array[:1])).score for one in others]
    return scores, float(np.mean([one.is_unusual for one in verdicts])), verdicts[0].false_alarms


def learn(abdomen: PhantomRecipe, folder: Path, iterations: int) -> None:
    """Train two folds and learn what their held-out Cases are like; what a killed run has left is begun anew."""
    shutil.rmtree(folder, ignore_errors=True)
    write_phantoms(abdomen, folder / "data", CASES)
    workspace = f"workspace={folder / 'W'}"
    run("plan", f"dataset={folder / 'data'}", workspace, "budget=1min", "folds=2")
    small = ("network.base_features=8", f"iterations={iterations}", "validate_fold=false", "device=cpu")
    run("train", workspace, "fold=all", *small)
    run("calibrate", workspace, "quality=fast")


def auroc(usual: list[float], unusual: list[float]) -> float:
    """Chance that an unusual image scores higher; ties count half."""
    ranks = rankdata([*usual, *unusual])[len(usual) :]
    return float((ranks.sum() - len(unusual) * (len(unusual) + 1) / 2) / (len(usual) * len(unusual)))


def described(values: list[float]) -> str:
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}]"


def known_or_measured(seed: int, folder: Path, iterations: int) -> tuple[dict[str, list[float]], float, float]:
    """What an earlier run has measured, so that a killed benchmark goes on with the next seed."""
    kept = folder / "measured.json"
    if not kept.is_file():
        write_text(kept, json.dumps(scores_of(seed, folder, iterations)))
    scores, called, stated = json.loads(kept.read_text())
    return scores, called, stated


def main(folder: Path, iterations: int) -> None:
    found = [known_or_measured(seed, folder / str(seed), iterations) for seed in SEEDS]
    print(
        f"{len(SEEDS)} seeds, {CASES} held-out cases in two folds, {iterations} iterations, {NEW} new patients a kind"
    )
    for name in list(found[0][0])[1:]:
        print(f"{name:30} AUROC {described([auroc(scores['usual'], scores[name]) for scores, *_ in found])}")
    print(f"usual images called unusual: {described([called for _, called, _ in found])}, stated {found[0][2]:.3f}")


if __name__ == "__main__":
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(words[0] if words else temporary), int(words[1]) if len(words) > 1 else 60)
