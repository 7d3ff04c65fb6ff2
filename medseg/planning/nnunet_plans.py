"""nnU-Net's ``plans.json`` and ``dataset.json``, read as far as prediction needs them; what is missing is named.

Knows nothing of medseg's own Plan; that is ``medseg.planning.from_nnunet``. Format: nnU-Net v2
(``documentation/explanation_plans_files.md``), with the flat network description of its first releases, in which
TotalSegmentator's models are written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from medseg.documents import Record, describe_validation, read_text
from medseg.errors import PlanError


class _Part(Record):
    """nnU-Net writes far more than is needed here; further keys are left alone."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)


class Architecture(_Part):
    """Which network, and the arguments that it is built with."""

    network_class_name: str
    arch_kwargs: dict[str, Any]


class Intensities(_Part):
    """Of one channel, in the foreground of the training data."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class NnunetConfiguration(_Part):
    """One configuration, with everything that it inherits; axes are the transposed ones, two of them in 2D."""

    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: int
    patch_size: tuple[int, ...] = Field(min_length=2, max_length=3)
    median_image_size_in_voxels: tuple[float, ...] | None = None
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool | None, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg: str = "resample_data_or_seg_to_shape"
    resampling_fn_seg_kwargs: dict[str, Any] = Field(default_factory=dict)
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    batch_dice: bool = False
    previous_stage: str | None = None
    architecture: Architecture

    @model_validator(mode="before")
    @classmethod
    def _from_flat_description(cls, content: Any) -> Any:
        if isinstance(content, dict) and "architecture" not in content and "UNet_class_name" in content:
            return {**content, "architecture": _architecture_of(content)}
        return content

    @property
    def dimensions(self) -> int:
        return len(self.patch_size)


class NnunetPlans(_Part):
    """``plans.json``; configurations are kept as they stand, because only those that are trained have to be sound."""

    dataset_name: str
    plans_name: str = "nnUNetPlans"
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    original_median_spacing_after_transp: tuple[float, float, float] = (1.0, 1.0, 1.0)
    original_median_shape_after_transp: tuple[float, float, float] = (1.0, 1.0, 1.0)
    label_manager: str = "LabelManager"
    foreground_intensity_properties_per_channel: dict[str, dict[str, Any]] = Field(default_factory=dict)
    configurations: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> NnunetPlans:
        """Read ``plans.json``. Raises PlanError with the field that is missing or of another type."""
        content = read_json(path)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise PlanError(f"{path} is no plans.json of nnU-Net v2: {describe_validation(error)}") from None

    def configuration(self, name: str, path: Path) -> NnunetConfiguration:
        """A configuration with what it inherits. Raises PlanError when it is unknown, circular or incomplete."""
        chain: list[dict[str, Any]] = []
        following: str | None = name
        while following is not None:
            if following not in self.configurations:
                known = ", ".join(self.configurations)
                raise PlanError(f"{path} has no configuration '{following}', only {known}. Use the model's own file.")
            chain.append(self.configurations[following])
            if len(chain) > len(self.configurations):
                raise PlanError(f"{path}: the configuration '{name}' inherits from itself. Use the model's own file.")
            following = chain[-1].get("inherits_from")
        merged: dict[str, Any] = {}
        for part in reversed(chain):
            merged |= part
        try:
            return NnunetConfiguration.model_validate(merged)
        except ValidationError as error:
            raise PlanError(f"{path}, configuration '{name}': {describe_validation(error)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises PlanError when the file is missing or holds something else."""
    try:
        content = json.loads(read_text(path, PlanError))
    except ValueError as error:
        raise PlanError(f"{path} is not readable as JSON: {error}.") from None
    if not isinstance(content, dict):
        raise PlanError(f"{path} should hold a JSON object, but holds {type(content).__name__}.")
    return content


def _architecture_of(content: dict[str, Any]) -> dict[str, Any]:
    """The first releases' flat keys as today's arguments; what a U-Net was then built with is fixed."""
    needed = (
        "UNet_base_num_features",
        "unet_max_num_features",
        "n_conv_per_stage_encoder",
        "n_conv_per_stage_decoder",
        "conv_kernel_sizes",
        "pool_op_kernel_sizes",
    )
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(f"the network's {', '.join(missing)} is missing")
    stages, dimensions = len(content["n_conv_per_stage_encoder"]), len(content["patch_size"])
    most = content["unet_max_num_features"]
    encoder = "n_conv_per_stage" if content["UNet_class_name"] == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": content["UNet_class_name"],
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(content["UNet_base_num_features"] * 2**i, most) for i in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": content["conv_kernel_sizes"],
            "strides": content["pool_op_kernel_sizes"],
            encoder: content["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": content["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    }
