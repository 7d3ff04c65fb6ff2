"""From a Fingerprint to a Plan, each value with its reason.

Rules: nnU-Net v2's (Isensee et al. 2021) under ``preset=nnunet``; other presets differ only where the Preset says so.
Knows nothing of files; what was measured of the machine is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.cases.labels import LabelTable
from medseg.cases.laterality import named_by_side, paired_left_right
from medseg.errors import PlanError
from medseg.planning.architectures import architecture
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.fitting import Means, fit
from medseg.planning.patch import Sized, Sizing, size_configuration
from medseg.planning.plan import ChannelPlan, ConfigurationName, ConfigurationPlan, Machine, Plan, TrainingPlan
from medseg.planning.presets import Preset
from medseg.planning.reasons import (
    channel_reasons,
    configuration_reasons,
    grid_reasons,
    leaf_keys,
    machine_reasons,
    training_reasons,
)
from medseg.planning.small import describe_small, find_small, sampling_for
from medseg.planning.spacing import TargetGrid, find_target_grid

_COARSENING = 1.03
"""Factor by which the lowres spacing grows in each step."""
_NORMALISATIONS = {"ct": "ct", "nonorm": "none", "rescale_to_0_1": "rescale_0_1", "rgb_to_0_1": "rgb"}
"""By the channel's name, in any case; every other name means z-score."""


def make_plan(
    fingerprint: Fingerprint, labels: LabelTable, preset: Preset, machine: Machine, seconds: float | None = None
) -> Plan:
    """The Plan for a Dataset under a Preset, as ``plan_dataset`` makes it."""
    return plan_dataset(fingerprint, labels, preset, machine, seconds).plan


@dataclass(frozen=True)
class Planned:
    """A Plan, and what decided the size of its networks."""

    plan: Plan
    sizes: dict[ConfigurationName, Sized]
    means: Means | None
    """None under presets of a fixed size."""


def plan_dataset(
    fingerprint: Fingerprint, labels: LabelTable, preset: Preset, machine: Machine, seconds: float | None = None
) -> Planned:
    """The Plan for a Dataset under a Preset, with a reason for every value.

    ``seconds`` is the time in which one fold should be trained; without it the Preset's reference. Raises PlanError
    when the Fingerprint was measured in another orientation than the Preset's, has no Cases, or when not even the
    smallest patch fits the machine.
    """
    if fingerprint.orientation != preset.orientation:
        raise PlanError(
            f"The fingerprint is measured in {fingerprint.orientation} orientation, but preset '{preset.name}' plans "
            f"in {preset.orientation}. Measure it again with this preset."
        )
    if not fingerprint.count:
        raise PlanError(f"The fingerprint of '{fingerprint.dataset}' holds no cases, so there is nothing to plan from.")
    grid = find_target_grid(fingerprint)
    means = means_of(preset, machine, seconds)
    configurations, sizes = _configurations(fingerprint, labels, preset, machine, grid, means)
    reasons = {}
    for name, configuration in configurations.items():
        lowres = "3d_lowres" in configurations
        reasons |= configuration_reasons(name, configuration, sizes[name], grid, preset, lowres, means)
    channels = plan_channels(fingerprint, preset)
    mirror_axes, mirror_reason = _mirror_axes(preset, labels, grid)
    training = preset.training.model_copy(update={"mirror_axes": mirror_axes})
    training, small_reasons = _for_small_structures(training, fingerprint, labels, preset)
    reasons |= grid_reasons(fingerprint, preset, grid) | channel_reasons(channels, fingerprint, preset)
    reasons |= machine_reasons(preset) | training_reasons(training, preset)
    reasons["training.mirror_axes"] = mirror_reason
    reasons |= small_reasons
    plan = Plan(
        dataset=fingerprint.dataset,
        preset=preset.name,
        orientation=preset.orientation,
        axis_order=grid.axis_order,  # type: ignore[arg-type]
        channels=channels,
        machine=machine,
        configurations=configurations,
        default_configuration="2d" if grid.flat else "3d_fullres",
        training=training,
        fingerprint=fingerprint.content_hash(),
    )
    known = {key: reasons[key] for key in leaf_keys(plan.content()) if key in reasons}
    return Planned(plan.model_copy(update={"reasons": known}), sizes, means)


def plan_channels(fingerprint: Fingerprint, preset: Preset) -> tuple[ChannelPlan, ...]:
    """How each channel is normalised: by its name, and for z-scores by how much cropping takes away."""
    masked = fingerprint.median_relative_volume < preset.masked_below
    planned = []
    for channel in fingerprint.channels:
        scheme = _NORMALISATIONS.get(channel.name.casefold(), "zscore")
        numbers = {}
        if scheme == "ct":
            numbers = {
                "clip_low": channel.percentile_00_5,
                "clip_high": channel.percentile_99_5,
                "mean": channel.mean,
                "std": channel.std,
            }
        planned.append(
            ChannelPlan(
                name=channel.name,
                normalisation=scheme,  # type: ignore[arg-type]
                masked=masked and scheme == "zscore",
                **numbers,
            )
        )
    return tuple(planned)


def _for_small_structures(
    training: TrainingPlan, fingerprint: Fingerprint, labels: LabelTable, preset: Preset
) -> tuple[TrainingPlan, dict[str, str]]:
    """The recipe with the sampling that small and rare structures ask for, where the Preset takes it, and why."""
    small = () if preset.small_structures == "off" else find_small(fingerprint, labels, preset.small_below)
    if not small:
        return training, {}
    why = describe_small(small, fingerprint.count)
    applied = preset.small_structures == "apply"
    reason = why if applied else f"off; may help, since {why}"
    keys = ("balanced", "size_aware", "copy_paste", "rare")
    if applied:
        training = training.model_copy(update={"sampling": sampling_for(small)})
    return training, {f"training.sampling.{key}": reason for key in keys}


def _mirror_axes(preset: Preset, labels: LabelTable, grid: TargetGrid) -> tuple[tuple[int, ...], str]:
    if preset.mirroring == "all":
        return (0, 1, 2), f"all axes, as preset '{preset.name}' says"
    sided = named_by_side(labels.target_names)
    if not sided:
        return (0, 1, 2), "all axes: no structure is named by its side"
    kept = tuple(axis for axis in range(3) if grid.axis_order[axis] != 2)
    pairs = paired_left_right(sided)
    if pairs:
        left, right = pairs[0]
        return kept, f"not left-right, which would swap '{left}' and '{right}'"
    return kept, f"not left-right, which would put '{sided[0]}' on the other side"


def _configurations(
    fingerprint: Fingerprint,
    labels: LabelTable,
    preset: Preset,
    machine: Machine,
    grid: TargetGrid,
    means: Means | None,
) -> tuple[dict[ConfigurationName, ConfigurationPlan], dict[ConfigurationName, Sized]]:
    """Every configuration that the Dataset warrants, and what decided its size."""
    voxels = math.prod(grid.median_shape) * fingerprint.count
    flat = make_sizing(2, len(fingerprint.channels), labels.outputs, preset, machine)
    sized: dict[ConfigurationName, Sized] = {}
    sized["2d"] = _sized(flat, means, grid.spacing[1:], grid.median_shape[1:], voxels)
    planned: dict[ConfigurationName, ConfigurationPlan] = {"2d": _configuration(2, grid, sized["2d"], True)}
    lowres = None
    if not grid.flat:
        solid = make_sizing(3, len(fingerprint.channels), labels.outputs, preset, machine)
        full = _sized(solid, means, grid.spacing, grid.median_shape, voxels)
        lowres = _lowres(solid, means, preset, grid, full, fingerprint.count)
        sized["3d_fullres"] = full
        planned["3d_fullres"] = _configuration(3, grid, full, batch_dice=lowres is not None)
        if lowres is not None:
            planned["3d_lowres"], sized["3d_lowres"] = lowres
            planned["3d_cascade_fullres"] = planned["3d_fullres"].model_copy(update={"previous": "3d_lowres"})
            sized["3d_cascade_fullres"] = full
    return planned, sized


def _configuration(dimensions: int, grid: TargetGrid, sized: Sized, batch_dice: bool) -> ConfigurationPlan:
    z, y, x = (round(n) for n in grid.median_shape)
    return ConfigurationPlan(
        dimensions=dimensions,  # type: ignore[arg-type]
        spacing=grid.spacing,
        median_shape=(z, y, x),
        patch_size=sized.patch,
        batch_size=sized.batch,
        batch_dice=batch_dice,
        network=sized.network,
    )


def _lowres(
    sizing: Sizing, means: Means | None, preset: Preset, grid: TargetGrid, full: Sized, cases: int
) -> tuple[ConfigurationPlan, Sized] | None:
    """The lowres configuration: coarser step by step until the patch covers enough of the median Case.

    None when the patch at full resolution covers enough, or the coarser images would not be at least 2 times smaller.
    """
    voxels = whole = math.prod(grid.median_shape)
    spacing, sized, shape = list(grid.spacing), full, grid.median_shape
    while math.prod(sized.patch) / voxels < preset.lowres_below:
        ahead = [max(spacing) / s > 2 for s in spacing]
        spacing = [s * _COARSENING if not any(ahead) or a else s for s, a in zip(spacing, ahead, strict=True)]
        exact = [old / new * n for old, new, n in zip(grid.spacing, spacing, grid.median_shape, strict=True)]
        voxels, shape = math.prod(exact), [round(n) for n in exact]
        sized = _sized(sizing, means, spacing, shape, voxels * cases)
    if sized is full or whole / voxels < 2:
        return None
    a, b, c = spacing
    z, y, x = (round(n) for n in shape)
    plan = ConfigurationPlan(
        dimensions=3,
        spacing=(a, b, c),
        median_shape=(z, y, x),
        patch_size=sized.patch,
        batch_size=sized.batch,
        batch_dice=False,
        network=sized.network,
    )
    return plan, sized


def _sized(
    sizing: Sizing, means: Means | None, spacing: Sequence[float], shape: Sequence[float], voxels: float
) -> Sized:
    sized = size_configuration(sizing, spacing, shape, voxels)
    return sized if means is None else fit(sized, sizing, means, spacing, shape, voxels)


def make_sizing(dimensions: int, channels: int, classes: int, preset: Preset, machine: Machine) -> Sizing:
    """What a configuration may cost by nnU-Net's rule: its budget, scaled with memory."""
    budget = preset.budget_2d if dimensions == 2 else preset.budget_3d
    scaled = budget.model_copy(update={"elements": budget.elements * preset.planned_gb(machine) / preset.reference_gb})
    return Sizing(
        architecture=architecture(preset.network),
        channels=channels,
        classes=classes,
        base_features=preset.base_features,
        budget=scaled,
        smallest_batch=preset.smallest_batch,
        largest_share=preset.largest_share,
    )


def means_of(preset: Preset, machine: Machine, seconds: float | None) -> Means | None:
    """What the machine allows; None under presets of a fixed size, which are the same for every machine."""
    if preset.sized_for == "reference":
        return None
    on_cpu = preset.plans_for_cpu(machine)
    known = machine.device == "cpu" or not on_cpu
    speed, memory = (machine.flops_per_second, machine.memory_bytes) if known else (None, None)
    return Means(
        device="cpu" if on_cpu else machine.device,
        rules=preset.time,
        seconds=preset.time.reference_seconds if seconds is None else seconds,
        flops_per_second=speed or (preset.time.assumed_flops_per_second if on_cpu else None),
        speed_is_measured=speed is not None,
        memory_bytes=None if memory is None else int(preset.memory_share * memory),
        memory_share=preset.memory_share,
        memory_factor=max(machine.memory_factor or 1.0, 1.0),
    )
