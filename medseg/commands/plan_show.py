"""What ``medseg plan`` says of a plan: a table of its networks, what was given up, and on request every reason."""

from __future__ import annotations

import math
from typing import Any

from medseg.cases.dataset import Dataset
from medseg.commands.console import say, table
from medseg.paths import Workspace
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import Means, gigabytes
from medseg.planning.patch import Sized
from medseg.planning.plan import Plan
from medseg.planning.reasons import against_wider, leaf_keys
from medseg.planning.rules import Planned


def show_plan(planned: Planned, dataset: Dataset, workspace: Workspace) -> None:
    """Print the table of configurations, and what memory and time have cost the default one."""
    plan = planned.plan
    test = f" and {len(dataset.test)} set aside for 'medseg test'" if dataset.test else ""
    targets = "regions" if dataset.labels.regions else "labels"
    known = f"channels {', '.join(dataset.channels)}, {targets} {', '.join(dataset.labels.target_names)}"
    say(f"{len(dataset.cases)} cases{test}, {known}")
    rows = [
        (
            f"{name}{' *' if name == plan.default_configuration else ''}",
            "x".join(f"{mm:.3g}" for mm in configuration.spacing),
            "x".join(map(str, configuration.median_shape)),
            "x".join(map(str, configuration.patch_size)),
            str(configuration.batch_size),
            "-".join(map(str, configuration.network.features)),
            *_expected(planned.sizes[name]),
        )
        for name, configuration in plan.configurations.items()
    ]
    columns = ["configuration", "spacing mm", "median shape", "patch", "batch", "features"]
    columns += ["memory", "iterations", "passes"][: len(rows[0]) - len(columns)]
    table(f"Plan of {plan.dataset} (preset {plan.preset}, {plan.machine.device})", columns, rows)
    if planned.means is not None:
        for sentence in given_up(planned, planned.means):
            say(sentence)
    say(f"* is the default. Every value with its reason: {workspace.plan}\nNext: medseg train fold=0")


def show_reasons(plan: Plan) -> None:
    """Print every value of the Plan with its reason."""
    content = plan.content()
    for key in leaf_keys(content):
        value: Any = content
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        if key in plan.reasons:
            say(f"{key}: {_shown(value)}\n    {plan.reasons[key]}")


def draw_picture(plan: Plan, fingerprint: Fingerprint, dataset: Dataset, workspace: Workspace) -> None:
    """Draw the dataset and the patches over its median case (by volume), as that is prepared for the network."""
    from medseg.cases.case import read_case_image, read_case_labels
    from medseg.evaluation.plan_picture import draw_plan
    from medseg.preprocessing.prepare import prepare_image, prepare_labels

    volumes = {case.name: math.prod(case.cropped_shape) * math.prod(case.spacing) for case in fingerprint.cases}
    median = sorted(volumes, key=lambda name: (volumes[name], name))[len(volumes) // 2]
    case = next(case for case in dataset.cases if case.name == median)
    image = read_case_image(case, len(dataset.channels))
    labels = read_case_labels(case, dataset.labels, image)
    prepared, grid = prepare_image(image, plan, plan.configurations[plan.default_configuration])
    shown = prepare_labels(labels, grid, len(dataset.labels), dataset.labels.ignore_index)
    path = workspace.picture
    draw_plan(path, fingerprint, plan, dataset.labels, median, prepared[0], shown, grid.prepared_spacing)
    say(f"The dataset and what its networks see of it: {path}")


def given_up(planned: Planned, means: Means) -> list[str]:
    """What the default configuration would have with more time or memory, and how far its training goes."""
    sized = planned.sizes[planned.plan.default_configuration]
    sentences = []
    if sized.wider is not None:
        reason = against_wider(sized, means)
        sentences.append(f"Channels: {sized.network.features[0]} instead of {sized.wider[0]} or more; {reason}.")
    if sized.patch_limit in ("time", "memory"):
        why = "an iteration would take too long" if sized.patch_limit == "time" else "the memory is not enough"
        sentences.append(f"Patch: {'x'.join(map(str, sized.patch))}, smaller than nnU-Net's, because {why}.")
    if sized.batch_limit in ("time", "smallest", "memory") and sized.wider is not None:
        why = "memory" if sized.batch_limit == "memory" else "time"
        sentences.append(f"Batch: {sized.batch}, for want of {why}.")
    pace, enough = sized.pace, means.rules.enough_passes
    if pace is not None and pace.passes < enough:
        sentences.append(
            f"Each voxel of the data will lie in about {_times(pace.passes)} patches; {enough:g} would be enough, "
            f"which takes budget={_hours(pace.seconds * enough / pace.passes)}{_coarser(planned, enough)}."
        )
    return sentences


def _coarser(planned: Planned, enough: float) -> str:
    lowres = planned.sizes.get("3d_lowres")
    default = planned.plan.default_configuration
    if lowres is None or lowres.pace is None or default != "3d_fullres":
        return ""
    return f"; configuration=3d_lowres reaches {_times(lowres.pace.passes)} in the same time" if enough else ""


def _expected(sized: Sized) -> list[str]:
    """Memory, iterations and passes, as far as they are known."""
    if sized.memory is None:
        return []
    known = [gigabytes(sized.memory.total)]
    return known if sized.pace is None else [*known, f"{sized.pace.iterations:,}", _times(sized.pace.passes)]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)


def _times(passes: float) -> str:
    """Two digits of a small number, all of a large one; never 1e+04."""
    return f"{passes:.2g}" if passes < 100 else f"{passes:,.0f}"


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f}min"
    return f"{seconds / 3600:.0f}h" if seconds < 172800 else f"{seconds / 86400:.0f}d"
