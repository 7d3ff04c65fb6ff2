"""What the benchmarks that train share: a command that has to succeed, its Dice, and means with their intervals."""

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medseg.cases.dataset import Dataset
from medseg.cases.folds import Fold, Folds
from medseg.cases.formats import read_dataset, save_dataset
from medseg.cli import main
from medseg.evaluation.bootstrap import interval, resampled_means
from medseg.evaluation.scores import Scores
from medseg.files import write_text
from medseg.paths import Workspace


def run(*words: str) -> None:
    """One medseg command; its exit code, if any, ends the benchmark."""
    code = main(list(words))
    if code:
        raise SystemExit(code)


def folder_of(word: str, name: str) -> Path:
    """The folder that was asked for, or a new one."""
    return Path(word or tempfile.mkdtemp(prefix=f"medseg-{name}-")).resolve()


def fewer_cases(workspace: Workspace, held_out: int, labelled: int | None = None) -> None:
    """Leave labels to so many evenly spaced cases of fold 0's training part (or all), and so many to be held out."""
    dataset, folds = read_dataset(workspace.dataset), Folds.load(workspace.folds)
    learned, validation = folds.split(0)
    training, chosen = _spread(learned, labelled or len(learned)), _spread(validation, held_out)
    named = {case.name: case for case in dataset.cases}
    cases = tuple(named[name] for name in sorted((*training, *chosen)))
    others = tuple(replace(named[name], labels=None) for name in learned if name not in training)
    save_dataset(Dataset(dataset.name, dataset.channels, dataset.labels, cases, others), workspace.dataset)
    groups = {case.name: folds.cases[case.name] for case in cases}
    folds.model_copy(update={"cases": groups, "folds": (Fold(validation=chosen),)}).save(workspace.folds)


def _spread(names: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int))


def trained(workspace: Workspace, kept: Path, *words: str) -> np.ndarray:
    """Dice (cases, targets) of the held-out cases of fold 0, trained so.

    Its scores are ``kept`` and not made again; a training that was interrupted goes on.
    """
    begun, fold = kept.with_suffix(".begun"), workspace.fold("3d_fullres", 0)
    if not kept.is_file():
        goes_on = begun.is_file() and (fold / "recipe.json").is_file()
        if not goes_on and fold.exists():
            shutil.rmtree(fold)
        begun.touch()
        run("train", f"workspace={workspace.folder}", *(["resume=true"] if goes_on else words))
        kept.write_bytes((fold / "scores.json").read_bytes())
    return dice_of(kept)


def dice_of(scores: Path) -> np.ndarray:
    """(cases, targets) of a scores.json, in order of name; nan where neither truth nor prediction holds a target."""
    cases = sorted(Scores.load(scores).cases, key=lambda case: case.case)
    return np.array([[np.nan if one.dice is None else one.dice for one in case.structures] for case in cases])


def write_differences(title: str, found: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Print the mean of every way, and its difference to the first; it holds (cases, targets) for each seed."""
    means = {way: np.nanmean(np.mean(results, axis=0), axis=1) for way, results in found.items()}
    first, *others = means
    print(f"\n{title}; {len(means[first])} held-out cases, {len(found[first])} seeds, Dice\n{first:<12}", end="")
    print(described(means[first]))
    for way in others:
        print(f"{way:<12}{described(means[way])}   difference {described(means[way] - means[first])}")


def described(values: np.ndarray) -> str:
    """Mean and 95 % interval over cases of (cases,) values."""
    low, high = interval(resampled_means(values[:, None])[:, 0]) or (np.nan, np.nan)
    return f"{np.nanmean(values):7.4f} [{low:7.4f}, {high:7.4f}]"


def run_seeds(
    words: dict[str, str], one_seed: Callable[..., tuple[Any, float]], as_markdown: Callable[..., str]
) -> None:
    """``one_seed(words, folder, seed)`` for every seed, ``processes=`` at a time; results.json and .md.

    What a seed found is kept beside them, and not sought again for the same words.
    """
    output = Path(words["output"])
    output.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # each seed is a process of one thread
    with tempfile.TemporaryDirectory(prefix="medseg-seeds-") as place:
        seeds = range(1, int(words["seeds"]) + 1)
        with ProcessPoolExecutor(int(words["processes"]), multiprocessing.get_context("spawn")) as workers:
            results = list(workers.map(partial(_kept, one_seed, words, place), seeds))
    found, seconds = [one for one, _ in results], [spent for _, spent in results]
    (output / "results.json").write_text(json.dumps({"words": words, "seconds": seconds, "seeds": found}, indent=1))
    (output / "results.md").write_text(as_markdown(words, found, seconds))
    print((output / "results.md").read_text())


def _kept(
    one_seed: Callable[..., tuple[Any, float]], words: dict[str, str], place: str, seed: int
) -> tuple[Any, float]:
    path = Path(words["output"]) / f"seed_{seed}.json"
    asked = {key: value for key, value in words.items() if key not in ("output", "processes", "seeds")}
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["words"] == asked:
            return kept["found"], kept["seconds"]
    found, seconds = one_seed(words, place, seed)
    write_text(path, json.dumps({"words": asked, "found": found, "seconds": seconds}, indent=1))
    return found, seconds
