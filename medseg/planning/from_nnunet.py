"""From nnU-Net's plans to medseg's Plan, value by value, so that a Case is prepared and predicted just as nnU-Net does.

Knows nothing of weights. Everything that medseg can't do as nnU-Net does it is named, all at once, and nothing is
taken over silently. One difference stays: before a masked z-score, nnU-Net's cascade also counts voxels outside of the
non-zero mask where the stage before has found a structure. What each name means: nnU-Net v2 (Isensee et al. 2021,
doi 10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medseg.cases.dataset_json import channels_of, labels_of
from medseg.cases.labels import LabelTable
from medseg.documents import describe_validation
from medseg.errors import PlanError
from medseg.planning.nnunet_plans import Architecture, Intensities, NnunetConfiguration, NnunetPlans
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, NetworkPlan, Plan, TrainingPlan

_ORIENTATIONS = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "NaturalImage2DIO": "stored",
    "Tiff3DIO": "stored",
    "SimpleITKIOWithReorient": "canonical",
    "NibabelIOWithReorient": "canonical",
}
"""How each of nnU-Net's readers turns an image; the last two bring it to RAS."""
_SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb",
}
_RESAMPLING = "resample_data_or_seg_to_shape"
_RESAMPLING_DEFAULTS = {
    "is_seg": False,
    "order": 3,
    "order_z": 0,
    "force_separate_z": False,
    "separate_z_anisotropy_threshold": 3,
}
_NETWORKS = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "residual_unet"}
"""nnU-Net's classes under medseg's names."""
_ENCODER_SIZES = {"unet": "n_conv_per_stage", "residual_unet": "n_blocks_per_stage"}
"""Under which name each counts its convolutions or blocks per encoder stage."""
_FIXED: dict[str, tuple[Any, Any]] = {
    "conv_bias": (True, False),
    "dropout_op": (None, None),
    "nonlin_first": (False, False),
}
"""Arguments of the network that medseg's have built in, and what nnU-Net takes where they are left out."""
_SIZES = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder")
_KNOWN = {*_SIZES, *_FIXED, "conv_op", "norm_op", "norm_op_kwargs", "dropout_op_kwargs", "nonlin", "nonlin_kwargs"}


def plan_from_nnunet(
    plans: NnunetPlans,
    dataset: Mapping[str, Any],
    names: Sequence[str],
    folder: Path,
    mirror_axes: tuple[int, ...] = (0, 1, 2),
    fingerprint: str = "unknown",
) -> tuple[Plan, LabelTable]:
    """The Plan with the configurations of these names, and the labels; ``dataset`` is the content of dataset.json.

    ``mirror_axes`` are network axes (z, y, x). Raises PlanError that names everything that can't be imported.
    """
    configurations = require_importable(plans, dataset, names, folder)
    _require_previous(configurations)
    labels = labels_of(dataset, folder / "dataset.json")
    try:
        plan = Plan(
            dataset=plans.dataset_name,
            preset="nnunet",
            orientation=_ORIENTATIONS[plans.image_reader_writer],  # type: ignore[arg-type]
            axis_order=plans.transpose_forward,  # type: ignore[arg-type]
            channels=_shared_channels(plans, channels_of(dataset, folder / "dataset.json"), configurations, folder),
            machine=Machine(device="any"),
            configurations={name: _configuration(plans, found) for name, found in configurations.items()},
            default_configuration=_default(configurations),
            training=TrainingPlan(mirror_axes=mirror_axes),  # type: ignore[arg-type]
            fingerprint=fingerprint,
        )
    except ValidationError as error:
        raise PlanError(f"{folder / 'plans.json'} does not make a plan: {describe_validation(error)}") from None
    return plan, labels


def require_importable(
    plans: NnunetPlans, dataset: Mapping[str, Any], names: Sequence[str], folder: Path
) -> dict[str, NnunetConfiguration]:
    """The configurations of these names. Raises PlanError that names everything that can't be imported.

    Raises DatasetError for labels or regions that contradict themselves.
    """
    labels_of(dataset, folder / "dataset.json")
    configurations = {name: plans.configuration(name, folder / "plans.json") for name in names}
    reasons = [*_model_reasons(plans)]
    for configuration in configurations.values():
        reasons += _configuration_reasons(configuration)
    if reasons:
        raise PlanError(
            f"{folder} can't be imported, because medseg has no {', no '.join(dict.fromkeys(reasons))}. "
            "Predict with nnU-Net itself, or train the dataset with medseg."
        )
    return configurations


def _require_previous(configurations: Mapping[str, NnunetConfiguration]) -> None:
    """Raise PlanError for a cascade without the configuration whose labels it needs."""
    for name, found in configurations.items():
        if found.previous_stage is not None and found.previous_stage not in configurations:
            raise PlanError(
                f"'{name}' is a cascade, whose input needs the labels of '{found.previous_stage}'. Name that folder as "
                f"well: nnunet=[DIR,DIR], or the folder around both."
            )


def _default(configurations: Mapping[str, NnunetConfiguration]) -> str:
    """What predicts unless another is asked for: full resolution, else the last that no other one builds on."""
    if "3d_fullres" in configurations:
        return "3d_fullres"
    before = {found.previous_stage for found in configurations.values()}
    return [name for name in configurations if name not in before][-1]


def _model_reasons(plans: NnunetPlans) -> Iterator[str]:
    """What is missing in medseg for the model as a whole, as 'medseg has no ...'."""
    if plans.label_manager != "LabelManager":
        yield f"label manager '{plans.label_manager}'"
    if plans.image_reader_writer not in _ORIENTATIONS:
        yield f"image reader '{plans.image_reader_writer}'"


def _configuration_reasons(found: NnunetConfiguration) -> Iterator[str]:
    if found.preprocessor_name != "DefaultPreprocessor":
        yield f"preprocessor '{found.preprocessor_name}'"
    for scheme in found.normalization_schemes:
        if scheme not in _SCHEMES:
            yield f"normalisation '{scheme}'"
    yield from _resampling_reasons(found.resampling_fn_data, found.resampling_fn_data_kwargs, order=3)
    yield from _resampling_reasons(found.resampling_fn_probabilities, found.resampling_fn_probabilities_kwargs, order=1)
    if found.previous_stage is not None:  # only there are labels resampled when predicting
        yield from _resampling_reasons(found.resampling_fn_seg, found.resampling_fn_seg_kwargs, order=1, labels=True)
    yield from _network_reasons(found.architecture, found.dimensions)


def _resampling_reasons(name: str, arguments: Mapping[str, Any], order: int, labels: bool = False) -> Iterator[str]:
    if name != _RESAMPLING:
        yield f"resampling '{name}'"
        return
    expected = {**_RESAMPLING_DEFAULTS, "order": order, "is_seg": labels, "force_separate_z": None}
    for key, value in {**_RESAMPLING_DEFAULTS, **arguments}.items():
        if key not in expected or value != expected[key]:
            yield f"resampling with {key}={value} (only {expected.get(key)})"


def _network_reasons(architecture: Architecture, dimensions: int) -> Iterator[str]:
    name, arguments = _last(architecture.network_class_name), architecture.arch_kwargs
    if name not in _NETWORKS:
        yield f"network '{name}' yet"
        return
    known = {*_KNOWN, _ENCODER_SIZES[_NETWORKS[name]], "deep_supervision"}
    for key in arguments:
        if key not in known:
            yield f"network with {key}={arguments[key]}"
    for key, (expected, default) in _FIXED.items():
        if arguments.get(key, default) != expected:
            yield f"network with {key}={arguments.get(key, default)}"
    for key, expected in (
        ("conv_op", f"Conv{dimensions}d"),
        ("norm_op", f"InstanceNorm{dimensions}d"),
        ("nonlin", "LeakyReLU"),
    ):
        if _last(arguments.get(key)) != expected:
            yield f"network with {key}={_last(arguments.get(key))} (only {expected})"
    norm = {"eps": 1e-5, "affine": False, **(arguments.get("norm_op_kwargs") or {})}
    if norm != {"eps": 1e-5, "affine": True}:
        yield f"network with norm_op_kwargs={norm}"
    slope = {"negative_slope": 0.01, **(arguments.get("nonlin_kwargs") or {}), "inplace": True}
    if slope != {"negative_slope": 0.01, "inplace": True}:
        yield f"network with nonlin_kwargs={slope}"


def _last(name: Any) -> str:
    """``Conv3d`` of ``torch.nn.modules.conv.Conv3d``."""
    return str(name).rsplit(".", maxsplit=1)[-1]


def _shared_channels(
    plans: NnunetPlans, names: Sequence[str], configurations: Mapping[str, NnunetConfiguration], folder: Path
) -> tuple[ChannelPlan, ...]:
    """How the channels are normalised, which must be the same in all configurations of one bundle."""
    found = {key: _channels(plans, names, configuration, folder) for key, configuration in configurations.items()}
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise PlanError(
                f"{folder}: the configurations '{first}' and '{other}' normalise the channels differently, which one "
                "bundle can't hold. Import them one by one, each into a bundle of its own."
            )
    return found[first]


def _channels(
    plans: NnunetPlans, names: Sequence[str], found: NnunetConfiguration, folder: Path
) -> tuple[ChannelPlan, ...]:
    if not len(names) == len(found.normalization_schemes) == len(found.use_mask_for_norm):
        raise PlanError(
            f"{folder} names {len(names)} channel(s) in dataset.json, but plans.json normalises "
            f"{len(found.normalization_schemes)}: the two files do not belong together. Use the model's own files."
        )
    channels = []
    for index, (name, scheme) in enumerate(zip(names, found.normalization_schemes, strict=True)):
        numbers = {}
        if scheme == "CTNormalization":
            measured = Intensities.model_validate(plans.foreground_intensity_properties_per_channel.get(str(index), {}))
            numbers = {
                "clip_low": measured.percentile_00_5,
                "clip_high": measured.percentile_99_5,
                "mean": measured.mean,
                "std": measured.std,
            }
        masked = scheme == "ZScoreNormalization" and bool(found.use_mask_for_norm[index])
        normalisation: Any = _SCHEMES[scheme]
        channels.append(ChannelPlan(name=name, normalisation=normalisation, masked=masked, **numbers))
    return tuple(channels)


def _configuration(plans: NnunetPlans, found: NnunetConfiguration) -> ConfigurationPlan:
    """In 2D a first axis is put before nnU-Net's two."""
    median, through = found.median_image_size_in_voxels, plans.original_median_shape_after_transp
    median = (median or through)[-found.dimensions :]
    return ConfigurationPlan.model_validate(
        {
            "dimensions": found.dimensions,
            "spacing": _solid(found.spacing, plans.original_median_spacing_after_transp[0]),
            "median_shape": [max(1, round(n)) for n in _solid(median, through[0])],
            "patch_size": _solid(found.patch_size, 1),
            "batch_size": found.batch_size,
            "batch_dice": found.batch_dice,
            "network": _network(found.architecture, found.dimensions),
            "previous": found.previous_stage,
        }
    )


def _network(architecture: Architecture, dimensions: int) -> NetworkPlan:
    name, arguments = _NETWORKS[_last(architecture.network_class_name)], architecture.arch_kwargs
    stages = arguments.get("n_stages")
    strides = [_solid(_repeated(stride, dimensions), 1) for stride in _repeated(arguments.get("strides"), stages)]
    kernels = [_solid(_repeated(kernel, dimensions), 1) for kernel in _repeated(arguments.get("kernel_sizes"), stages)]
    return NetworkPlan.model_validate(
        {
            "name": name,
            "features": _repeated(arguments.get("features_per_stage"), stages),
            "strides": strides,
            "kernels": kernels,
            "encoder_convolutions": _repeated(arguments.get(_ENCODER_SIZES[name]), stages),
            "decoder_convolutions": _repeated(arguments.get("n_conv_per_stage_decoder"), len(strides) - 1),
        }
    )


def _repeated(value: Any, times: Any) -> Sequence[Any]:
    """nnU-Net takes one number for all stages, or all axes, as well as a list of them."""
    if isinstance(value, int) and isinstance(times, int):
        return [value] * times
    return value if isinstance(value, list | tuple) else []


def _solid(values: Sequence[Any], first: Any) -> list[Any]:
    return [first, *values] if len(values) == 2 else list(values)
