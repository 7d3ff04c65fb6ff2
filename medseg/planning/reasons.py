"""Why each value of a Plan is as it is, one short sentence each, by dotted key.

Knows nothing of how the values are found: it words what the rules report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import Means, gigabytes
from medseg.planning.patch import Sized
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, TrainingPlan
from medseg.planning.presets import Preset
from medseg.planning.spacing import TargetGrid

_RECIPE = {
    "iterations": "as many optimizer steps as the preset says",
    "budget": "as long as the preset says",
    "optimizer.name": "auto follows the number of iterations when training starts",
    "optimizer.weight_decay": "as the preset says",
    "optimizer.momentum": "nnU-Net's value for SGD",
    "loss": "Dice for overlap, cross-entropy for smooth gradients (nnU-Net's loss)",
    "class_weights": "Dice minds small structures already (nnU-Net weighs all voxels alike)",
    "foreground_share": "small structures must be seen often enough (nnU-Net's share)",
    "sampling.balanced": "nnU-Net's rule: a case, then a structure in it",
    "sampling.size_aware": "nnU-Net's rule: every structure of a case alike, every voxel of it alike",
    "sampling.copy_paste": "nothing is copied between cases",
    "sampling.rare": "no structure is that small",
    "sampling.hard_patches": "no patch is preferred for its error (nnU-Net's rule)",
    "gradient_clip": "nnU-Net's limit; guards against single bad batches",
    "cascade_start": "the network before a cascade has learned the same structures at a coarser spacing",
    "seed": "any number; everything random follows from it",
}


def leaf_keys(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of every value in a Plan's content; lists of numbers are one value, lists of parts are numbered."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from leaf_keys(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from leaf_keys({str(i): part for i, part in enumerate(value)}, f"{prefix}{name}.")
        else:
            yield prefix + name


def grid_reasons(fingerprint: Fingerprint, preset: Preset, grid: TargetGrid) -> dict[str, str]:
    """Reasons of the Plan's own values: names, orientation, axis order."""
    same = grid.axis_order == (0, 1, 2)
    return {
        "dataset": "as the dataset calls itself",
        "preset": preset.description,
        "orientation": f"preset '{preset.name}' turns every case to the same side"
        if preset.orientation == "canonical"
        else f"preset '{preset.name}' takes the axes as the files store them",
        "axis_order": "the axis with the coarsest spacing comes first" + (", and it does already" if same else ""),
        "default_configuration": "the images are single slices"
        if grid.flat
        else "the images are volumes, and this one needs no other before it",
        "fingerprint": f"content hash of the measurements of {fingerprint.count} cases",
    }


def channel_reasons(channels: tuple[ChannelPlan, ...], fingerprint: Fingerprint, preset: Preset) -> dict[str, str]:
    """Reasons of the normalisation of each channel."""
    left = f"cropping leaves {fingerprint.median_relative_volume:.0%} of the median case"
    reasons = {}
    for i, channel in enumerate(channels):
        by_name = {
            "ct": "the channel's name says CT, whose numbers mean the same in every case",
            "zscore": "the channel's name does not say CT, so each case is normalised by itself",
        }.get(channel.normalisation, "the channel's name asks for it")
        place = f"channels.{i}."
        reasons[place + "name"] = "as in the dataset"
        reasons[place + "normalisation"] = by_name
        reasons[place + "masked"] = (
            "only z-scores can be masked"
            if channel.normalisation != "zscore"
            else f"{left}, {'less than' if channel.masked else 'not less than'} {preset.masked_below:.0%}"
        )
        reasons[place + "clip_low"] = "0.5th percentile of foreground voxels over all cases"
        reasons[place + "clip_high"] = "99.5th percentile of foreground voxels over all cases"
        reasons[place + "mean"] = "mean of foreground voxels over all cases"
        reasons[place + "std"] = "standard deviation of foreground voxels over all cases"
    return reasons


def machine_reasons(preset: Preset) -> dict[str, str]:
    """What was measured, and whether it mattered."""
    used = preset.sized_for != "reference"
    return {
        "machine.device": "found on this machine"
        if used
        else f"found on this machine; preset '{preset.name}' does not plan by it",
        "machine.memory_bytes": f"found on this machine; a plan counts on {preset.memory_share:.0%} of it"
        if used
        else "found on this machine; not used",
        "machine.processor": "found on this machine; what was measured holds for it",
        "machine.flops_per_second": "measured by training a small network" + ("" if used else "; not used"),
        "machine.memory_factor": "measured memory of a training step over its estimate; above 1 plans become smaller",
    }


def training_reasons(training: TrainingPlan, preset: Preset) -> dict[str, str]:
    """Reasons of the training recipe."""
    chosen = set(leaf_keys(preset.training.model_dump(mode="json", exclude_unset=True)))
    reasons = {}
    for key in leaf_keys(training.model_dump(mode="json", exclude_none=True)):
        known = _RECIPE.get(
            key, _augmentation_reason(key, training) if key.startswith("augmentation.") else "by default"
        )
        reasons[f"training.{key}"] = f"preset '{preset.name}' says so" if key in chosen else known
    return reasons


def _augmentation_reason(key: str, training: TrainingPlan) -> str:
    is_on = getattr(training.augmentation, key.removeprefix("augmentation."))
    return "one of nnU-Net's augmentations" if is_on else "not in nnU-Net's recipe; medseg augment shows what it does"


def configuration_reasons(
    name: str,
    plan: ConfigurationPlan,
    sized: Sized,
    grid: TargetGrid,
    preset: Preset,
    lowres_exists: bool,
    means: Means | None,
) -> dict[str, str]:
    """Reasons of one configuration."""
    solid = plan.dimensions == 3
    reasons = {
        "dimensions": "whole volumes" if solid else "slice by slice",
        "spacing": _spacing_reason(name, grid, preset),
        "median_shape": "median size of the cases at this spacing",
        "patch_size": _patch_reason(sized, plan, means),
        "batch_size": _batch_reason(sized, preset, means),
        "batch_dice": _batch_dice_reason(name, lowres_exists),
        "previous": "its prediction at low resolution is an additional input",
        "network.name": f"preset '{preset.name}' plans this network",
        "network.features": _features_reason(sized, means),
        "network.strides": "the finest axes are halved first, none below an edge of 4 voxels",
        "network.kernels": "1 across an axis while it is at least 2 times coarser than the finest, then 3",
        "network.encoder_convolutions": "nnU-Net's number for this network",
        "network.decoder_convolutions": "nnU-Net's number for this network",
        "network.attention": "none is needed; se or cbam may be tried",
        "network.head": "plain unless asked for; evidential and learned serve the uncertainty= of their name",
        "network.dropout": "none unless asked for, as in nnU-Net; more than 0 serves uncertainty=dropout",
        "network.deep_supervision": "coarser stages learn from the labels directly (nnU-Net's rule)",
    }
    return {f"configurations.{name}.{key}": reason for key, reason in reasons.items()}


def _spacing_reason(name: str, grid: TargetGrid, preset: Preset) -> str:
    if name == "3d_lowres":
        return f"coarsened until a patch covers {preset.lowres_below:.0%} of the median case"
    through = "; slices are never resampled across the plane" if name == "2d" else ""
    if grid.finer_than_median:
        return (
            "median of the dataset; the coarse axis takes its 10th percentile, to keep slices of fine cases" + through
        )
    return "median of the dataset" + through


def _patch_reason(sized: Sized, plan: ConfigurationPlan, means: Means | None) -> str:
    if sized.patch_limit == "median":
        return f"the median case, padded to a multiple of {list(plan.network.divisor)}"
    if means is not None and sized.patch_limit == "time":
        longest = means.allowed(means.rules.accepted_seconds)
        return f"reduced until an iteration takes at most {longest:.2g} s {_speed(means)}"
    if means is not None and sized.patch_limit == "memory":
        return f"reduced until a training step fits in {gigabytes(means.memory_bytes or 0)}"
    elements = f"{sized.budget_elements / 1e6:.0f}e6"
    return f"largest patch that fits the budget of {elements} feature-map elements"


def _batch_reason(sized: Sized, preset: Preset, means: Means | None) -> str:
    reason = {
        "share": f"one batch covers at most {preset.largest_share or 0:.0%} of all voxels",
        "smallest": "the smallest batch",
        "time": "",
        "memory": f"a training step fits in {gigabytes(means.memory_bytes or 0) if means else 'memory'}",
        "budget": f"what the budget of {sized.budget_elements / 1e6:.0f}e6 feature-map elements leaves room for",
    }[sized.batch_limit]
    if means is None or sized.pace is None:
        return reason
    seconds = f"an iteration should take about {sized.pace.each:.2g} s {_speed(means)}"
    return f"{reason}; {seconds}" if reason else seconds


def _batch_dice_reason(name: str, lowres_exists: bool) -> str:
    if name == "2d":
        return "a single slice often lacks structures"
    if name == "3d_lowres":
        return "a patch covers much of a case"
    if lowres_exists:
        return "a patch is small against a case and often lacks structures"
    return "a patch covers much of a case"


def _features_reason(sized: Sized, means: Means | None) -> str:
    channels = sized.network.features[0]
    if means is None or sized.wider is None:
        return f"{channels} channels, doubled from stage to stage up to nnU-Net's limit"
    return f"{channels} channels; {against_wider(sized, means)}"


def against_wider(sized: Sized, means: Means) -> str:
    """Why the next wider network was not taken."""
    assert sized.wider is not None
    width, seconds, against = sized.wider
    if against == "memory":
        return f"{width} would not fit in {gigabytes(means.memory_bytes or 0)}"
    if against == "passes":
        return f"with {width} each voxel would lie in less than {means.rules.enough_passes:g} patches in the time"
    return f"with {width} an iteration would take at least {seconds:.2g} s {_speed(means)}"


def _speed(means: Means) -> str:
    where = "CPU" if means.device == "cpu" else "GPU"
    how = "a measured" if means.speed_is_measured else "an assumed"
    return f"on a {where} with {how} {(means.flops_per_second or 0) / 1e9:.0f} GFLOP/s"
