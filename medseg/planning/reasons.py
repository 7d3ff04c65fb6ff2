"""Why each value of a Plan is as it is, one short sentence each, by dotted key.

Knows nothing of how the values are found: it words what the rules report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medseg.planning.fingerprint import Fingerprint
from medseg.planning.patch import Sized
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, TrainingPlan
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
    "gradient_clip": "nnU-Net's limit; guards against single bad batches",
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
        "fingerprint": f"content hash of the measurements of {len(fingerprint.cases)} cases",
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


def machine_reasons(machine: Machine, preset: Preset) -> dict[str, str]:
    """What was measured, and whether it mattered."""
    used = preset.sized_for == "machine"
    return {
        "machine.device": "found on this machine"
        if used
        else f"found on this machine; preset '{preset.name}' does not plan by it",
        "machine.memory_bytes": f"found on this machine; a plan counts on {preset.memory_share:.0%} of a GPU's memory"
        if used
        else "found on this machine; not used",
        "machine.flops_per_second": "measured by training a small network"
        + ("" if preset.plans_for_cpu(machine) else "; not used"),
    }


def training_reasons(training: TrainingPlan, preset: Preset) -> dict[str, str]:
    """Reasons of the training recipe."""
    chosen = set(leaf_keys(preset.training.model_dump(mode="json", exclude_unset=True)))
    reasons = {}
    for key in leaf_keys(training.model_dump(mode="json", exclude_none=True)):
        known = _RECIPE.get(key, "one of nnU-Net's augmentations" if key.startswith("augmentation.") else "by default")
        reasons[f"training.{key}"] = f"preset '{preset.name}' says so" if key in chosen else known
    return reasons


def configuration_reasons(
    name: str, plan: ConfigurationPlan, sized: Sized, grid: TargetGrid, preset: Preset, lowres_exists: bool
) -> dict[str, str]:
    """Reasons of one configuration."""
    solid = plan.dimensions == 3
    reasons = {
        "dimensions": "whole volumes" if solid else "slice by slice",
        "spacing": _spacing_reason(name, grid, preset),
        "median_shape": "median size of the cases at this spacing",
        "patch_size": _patch_reason(sized, plan, preset),
        "batch_size": _batch_reason(sized, preset),
        "batch_dice": _batch_dice_reason(name, lowres_exists),
        "previous": "its prediction at low resolution is an additional input",
        "network.name": f"preset '{preset.name}' plans this network",
        "network.features": _features_reason(sized, preset),
        "network.strides": "the finest axes are halved first, none below an edge of 4 voxels",
        "network.kernels": "1 across an axis while it is at least 2 times coarser than the finest, then 3",
        "network.encoder_convolutions": "nnU-Net's number for this network",
        "network.decoder_convolutions": "nnU-Net's number for this network",
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


def _patch_reason(sized: Sized, plan: ConfigurationPlan, preset: Preset) -> str:
    if sized.patch_limit == "median":
        return f"the median case, padded to a multiple of {list(plan.network.divisor)}"
    if sized.patch_limit == "time":
        return f"reduced until an iteration takes at most {preset.cpu.accepted_seconds:g} s {_speed(sized)}"
    elements = f"{sized.budget_elements / 1e6:.0f}e6"
    return f"largest patch that fits the budget of {elements} feature-map elements"


def _batch_reason(sized: Sized, preset: Preset) -> str:
    seconds = f"an iteration should take about {sized.iteration_seconds or 0:.1f} s {_speed(sized)}"
    if sized.batch_limit == "share":
        reason = f"one batch covers at most {preset.largest_share or 0:.0%} of all voxels"
        return reason if sized.iteration_seconds is None else f"{reason}; {seconds}"
    if sized.batch_limit == "time":
        return seconds
    if sized.batch_limit == "smallest":
        return "the smallest batch" + ("" if sized.iteration_seconds is None else f"; {seconds}")
    return f"what the budget of {sized.budget_elements / 1e6:.0f}e6 feature-map elements leaves room for"


def _batch_dice_reason(name: str, lowres_exists: bool) -> str:
    if name == "2d":
        return "a single slice often lacks structures"
    if name == "3d_lowres":
        return "a patch covers much of a case"
    if lowres_exists:
        return "a patch is small against a case and often lacks structures"
    return "a patch covers much of a case"


def _features_reason(sized: Sized, preset: Preset) -> str:
    if sized.iteration_seconds is None:
        return f"{sized.network.features[0]} channels, doubled from stage to stage up to nnU-Net's limit"
    return f"as many as train {preset.smallest_batch} patches in about a second {_speed(sized)}"


def _speed(sized: Sized) -> str:
    how = "a measured" if sized.speed_is_measured else "an assumed"
    return f"on a CPU with {how} {sized.flops_per_second / 1e9:.0f} GFLOP/s"
