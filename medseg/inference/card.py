"""The model card of a bundle: what it is for, what it was made of, what it reached, and where it ends, as Markdown.

Holds no name of a Case and no path. Form: model cards (Mitchell et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medseg import __version__
from medseg.evaluation.scores import Average, Statistic
from medseg.inference.components import FOREGROUND
from medseg.inference.model import Model
from medseg.paths import Workspace
from medseg.planning.fingerprint import Fingerprint


def describe_model(model: Model, workspace: Workspace, files: Sequence[str]) -> str:
    """Markdown of a Model; ``files`` are the names in its bundle."""
    measured = [_data(model, workspace), _training(model), _scores(model)]
    ends = [_limits()] if model.labels.targets else []
    parts = [_head(model), _use(), *measured, *ends, _run(files, how_to_use(model, "THIS_FOLDER"))]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _head(model: Model) -> list[str]:
    targets = ", ".join(model.labels.target_names)
    channels = ", ".join(channel.name for channel in model.plan.channels)
    does = f"Segments {targets} in" if targets else "A start for training: it has learned to restore hidden parts of"
    return [f"# {model.plan.dataset}", "", f"{does} images with the channel(s) {channels}."]


def _use() -> list[str]:
    return [
        "## Intended use",
        "",
        "Research. Not a medical device: every result has to be checked by someone who could have made it.",
    ]


def _data(model: Model, workspace: Workspace) -> list[str]:
    if not workspace.fingerprint.is_file():
        return []
    cases = Fingerprint.load(workspace.fingerprint).cases
    spacing = np.array([case.spacing for case in cases])
    shape = np.array([case.shape for case in cases])
    orientation = "turned to nearest RAS" if model.plan.orientation == "canonical" else "taken as the files store them"
    return [
        "## Data",
        "",
        f"{len(cases)} labelled cases, axes {orientation}. Median and range over cases:",
        "",
        "| | z | y | x |",
        "|---|---|---|---|",
        f"| spacing, mm | {_ranges(spacing)} |",
        f"| size, voxels | {_ranges(shape)} |",
    ]


def _ranges(values: np.ndarray) -> str:
    return " | ".join(f"{np.median(x):.4g} ({x.min():.4g} to {x.max():.4g})" for x in values.T)


def _training(model: Model) -> list[str]:
    lines = ["## Networks", ""]
    chosen = model.selection.chosen if model.selection else tuple(model.weights)
    for name in chosen:
        plan = model.plan.configurations[name]
        folds = ", ".join(str(fold) for fold in model.weights[name])
        lines.append(
            f"- `{name}`, fold(s) {folds}: {plan.network.name}, features {list(plan.network.features)}, patch "
            f"{list(plan.patch_size)} at {[round(mm, 4) for mm in plan.spacing]} mm"
        )
    for rule in model.selection.rules if model.selection else ():
        what = "all structures together" if rule.target == FOREGROUND else rule.target
        lines.append(f"- only the largest component of {what} is kept (Dice {rule.gain:+.4f} on held-out cases)")
    return lines


def _scores(model: Model) -> list[str]:
    if model.selection is None:
        return []
    return [
        "## Out-of-fold scores",
        "",
        f"{model.selection.cases} cases, each predicted by networks that have not seen it.",
        "",
        f"| structure | Dice | HD95, mm | NSD at {model.selection.tolerance_mm:g} mm |",
        "|---|---|---|---|",
        *(f"| {one.name} | {' | '.join(_cells(one.metrics))} |" for one in model.selection.structures),
        f"| **mean** | {' | '.join(_cells(model.selection.average))} |",
    ]


def _cells(metrics: dict[str, Statistic] | dict[str, Average]) -> Iterator[str]:
    for name, form in (("dice", ".3f"), ("hd95_mm", ".2f"), ("nsd", ".3f")):
        one = metrics.get(name)
        interval = "" if one is None or one.low is None else f" [{one.low:{form}}, {one.high:{form}}]"
        yield "-" if one is None else f"{one.mean:{form}}{interval}"


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        "The scores hold for images like those it was trained on: another scanner, protocol, age or disease may do "
        "worse without notice. Intervals resample cases; they say nothing of other hospitals.",
    ]


def how_to_use(model: Model, folder: str) -> str:
    """The command for a Model in ``folder``: to predict, or to begin a training with what finds no structures yet."""
    if not model.labels.targets:
        return f"medseg train init_from={folder}"
    return f"medseg predict model={folder} input=DIR output=DIR"


def _run(files: Sequence[str], use: str) -> list[str]:
    return [
        "## Use",
        "",
        "```",
        use,
        "```",
        "",
        f"Written by medseg {__version__}. The files, whose checksums are in `bundle.json`:",
        "",
        *(f"- `{name}`" for name in files),
    ]
