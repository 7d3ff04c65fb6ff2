"""Dice of what hospitals can do with their data, on the real hippocampus images: alone, together, or all in one place.

Run from the project's folder on a quiet machine, with the images of the Medical Segmentation Decathlon's Task04 in
``data=DIR``: ``python tests/benchmarks/federated.py data=/data/hippocampus output=federated_results``. Four sites of
unequal size get images of four imagined scanners (spacing, contrast curve, noise, brightness over the image), a fifth
hospital takes no part. For every seed (other cases, other weights) each arm begins with the same weights and sees as
many patches; the table has the mean of the seeds and their spread. It writes ``results.json`` and ``results.md``; a
seed that a killed run has finished is not trained again. Words: ``seeds=3``, ``rounds=12``, ``steps=25``,
``processes=2``, ``arms=fedavg,fedprox,personalised``; ``south=opposite`` gives one hospital a sequence in which what is
bright elsewhere is dark, which no average of weights learns in so short a time.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from trials import run_seeds

WORDS = {
    "data": "",
    "output": "federated_results",
    "seeds": "3",
    "rounds": "12",
    "steps": "25",
    "processes": "2",
    "arms": "fedavg,fedprox,personalised",
    "south": "shifted",
    "baselines": "local,ensemble,centralised",
}
SITES = {"north": (60, 12), "east": (30, 12), "south": (16, 12), "west": (10, 12), "elsewhere": (0, 16)}
"""Cases for training and for testing."""


def scan(image: np.ndarray, site: str, south: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image (Z, Y, X) as a site's scanner would show it, and the factors by which its axes shrink."""
    low, high = np.percentile(image, [0.5, 99.5])
    grey = np.clip((image - low) / (high - low), 0, 1)
    factors = np.ones(3)
    if site == "east":
        grey, factors = grey**0.5, np.array([1.0, 1.0, 1 / 1.8])
    elif site == "south":
        z = np.linspace(-1, 1, grey.shape[0])[:, None, None]
        grey = 1 - grey if south == "opposite" else 0.25 + 0.6 * grey
        grey = grey**1.3 * (1 + 0.35 * z)  # brighter at one end
    elif site == "west":
        grey = gaussian_filter(grey**2.0, 0.8)
    elif site == "elsewhere":
        grey, factors = grey**1.4, np.array([1 / 1.3, 1.0, 1.0])
    noise = {"north": 0.01, "east": 0.04, "south": 0.02, "west": 0.06, "elsewhere": 0.05}[site]
    grey = zoom(grey, factors, order=1) if (factors != 1).any() else grey
    return 1000 * (grey + random.normal(0, noise, grey.shape)), factors


def write_site(dataset, names: list[str], tested: int, site: str, south: str, folder: Path, seed: int) -> Path:
    """One hospital's images and labels as its scanner gives them; its dataset.yaml."""
    from medseg.cases.case import Case, read_case_image, read_case_labels
    from medseg.federation.hospitals import save_split
    from medseg.images.formats import write_image, write_labels
    from medseg.images.volume import Volume

    random, known, cases = np.random.default_rng(seed), {case.name: case for case in dataset.cases}, []
    for number, name in enumerate(names):
        image = read_case_image(known[name], 1)
        labels = read_case_labels(known[name], dataset.labels, image)
        array, factors = scan(image.array[0], site, south, random)
        drawn = dataset.labels.to_values(labels.array)
        if (factors != 1).any():
            drawn = zoom(drawn, factors, order=0)
        affine = image.affine.copy()
        affine[:, :3] *= np.array(labels.array.shape) / np.array(array.shape)
        volume = Volume(array[None].astype(np.float32), affine)
        held_out = number >= len(names) - tested and site != "elsewhere"
        case = Case(
            name,
            (folder / "images" / f"{name}.nii.gz",),
            folder / "labels" / f"{name}.nii.gz",
            split="test" if held_out else "training",
        )
        write_image(case.images[0], volume.array, volume)
        write_labels(case.labels, drawn, volume)
        cases.append(case)
    path = folder / "dataset.yaml"
    save_split(replace(dataset, name=site, cases=tuple(cases), test=(), unlabelled=()), path)
    return path


def plan_of(dataset, network: Mapping[str, Any], batch_size: int, batch_dice: bool, training: Mapping[str, Any]):
    """A network of three levels on patches of 32x40x32 at 1 mm: what a CPU trains in a minute or two."""
    from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, NetworkPlan, Plan, TrainingPlan

    levels = NetworkPlan(
        features=(8, 16, 32),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3),) * 3,
        encoder_convolutions=(1, 2, 2),
        decoder_convolutions=(1, 1),
        deep_supervision=False,
        **network,
    )
    configuration = ConfigurationPlan(
        dimensions=3,
        spacing=(1.0, 1.0, 1.0),
        median_shape=(36, 50, 35),
        patch_size=(32, 40, 32),
        batch_size=batch_size,
        batch_dice=batch_dice,
        network=levels,
    )
    return Plan(
        dataset=dataset.name,
        preset="default",
        orientation="canonical",
        axis_order=(0, 1, 2),
        channels=(ChannelPlan(name=dataset.channels[0], normalisation="zscore"),),
        machine=Machine(device="cpu"),
        configurations={"3d_fullres": configuration},
        default_configuration="3d_fullres",
        training=TrainingPlan(mirror_axes=(), **training),
        fingerprint="none",
    )


def one_seed(words: dict[str, str], place: str, seed: int) -> tuple[dict, float]:
    """The comparison of one seed as plain data, and the processor seconds it took."""
    import torch

    from medseg.cases.formats import read_dataset
    from medseg.federation.arms import POOLED, Arms, compare_arms
    from medseg.federation.hospitals import pool
    from medseg.federation.policy import SitePolicy
    from medseg.federation.run_settings import RunSettings
    from medseg.federation.site import Site

    torch.set_num_threads(1)
    started, folder = time.process_time(), Path(place) / f"seed-{seed}"
    dataset = read_dataset(Path(words["data"]))
    order = [dataset.cases[i].name for i in np.random.default_rng(seed).permutation(len(dataset.cases))]
    datasets, first = {}, 0
    for site, (trained, tested) in SITES.items():
        names = order[first : first + trained + tested]
        first += trained + tested
        datasets[site] = write_site(dataset, names, tested, site, words["south"], folder / "data" / site, seed)
    training = [site for site in SITES if SITES[site][0]]
    datasets[POOLED] = pool(datasets, training, folder / "data" / POOLED / "dataset.yaml")
    looker = SitePolicy(actions=("prepare", "evaluate"))
    sites = {
        name: Site(name, path, folder / "sites" / name, looker if name == "elsewhere" else SitePolicy(), "cpu")
        for name, path in datasets.items()
    }
    arms = Arms(
        sites=[sites[name] for name in training],
        left_out=sites["elsewhere"],
        pooled=sites[POOLED],
        plan=plan_of(dataset, {}, 2, True, {"seed": seed}),
        table=dataset.labels,
        folder=folder / "runs",
        settings=RunSettings(rounds=int(words["rounds"]), steps=int(words["steps"])),
    )
    comparison, _ = compare_arms(arms, words["arms"].split(","), [x for x in words["baselines"].split(",") if x])
    return comparison.content(), time.process_time() - started


def summary(found: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Mean of the seeds (and their standard deviation) of each arm: per site, over sites, worst site, left out."""
    sites = found[0]["sites"]
    titles = ["model", *sites, "mean of sites", "worst site", "left out"]
    rows = []
    for model in [row["model"] for row in found[0]["rows"]]:
        table = []
        for one in found:
            cells = next(row["cells"] for row in one["rows"] if row["model"] == model)
            own = [cells[site]["dice"] for site in sites]
            outside = cells.get(one["left_out"], {}).get("dice", np.nan)
            table.append([*own, np.mean(own), min(own), outside])
        means, spread = np.mean(table, axis=0), np.std(table, axis=0, ddof=1) if len(table) > 1 else None
        text = [f"{m:.3f}" + ("" if spread is None else f" ± {spread[i]:.3f}") for i, m in enumerate(means)]
        rows.append([model, *("-" if np.isnan(m) else t for m, t in zip(means, text, strict=True))])
    return titles, rows


def as_markdown(words: dict[str, str], found: list[dict], seconds: list[float]) -> str:
    """The table with what it is of."""
    titles, rows = summary(found)
    cases = ", ".join(f"{site} {trained}+{tested}" for site, (trained, tested) in SITES.items())
    lines = [
        "# Hippocampus in four hospitals",
        "",
        f"Mean Dice of held-out cases, mean ± standard deviation of {len(found)} seed(s). {found[0]['budget']}.",
        f"Cases to train + to test: {cases}. Processor seconds for each seed: "
        f"{', '.join(f'{one:.0f}' for one in seconds)}.",
        "Made by: python tests/benchmarks/federated.py "
        + " ".join(f"{k}={v}" for k, v in words.items() if k != "data"),
        "",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "Cost of each arm, first seed: "
        + "; ".join(
            f"{row['model']} {row['bytes_up'] / 1e6:.1f} MB up, {row['bytes_down'] / 1e6:.1f} MB down, "
            f"{row.get('rounds_to_95')} rounds to 95 % of its best"
            for row in found[0]["rows"]
            if row["bytes_up"]
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_seeds(WORDS | dict(argument.split("=", 1) for argument in sys.argv[1:]), one_seed, as_markdown)
