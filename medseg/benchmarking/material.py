"""What both sides of a contest are given: images with labels, and an nnU-Net model; real ones where they are named.

Knows nothing of time. What is drawn follows from a seed: ellipsoids of different brightness in smooth noise, with
their labels, laid out as nnU-Net wants its raw data; a network of random weights in nnU-Net's own format, which medseg
then imports as it would any other.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medseg.arrays import Spacing, Triple
from medseg.cases.case import Case
from medseg.cases.labels import Label, LabelTable
from medseg.images.formats import write_image, write_labels
from medseg.images.volume import Volume
from medseg.planning.from_nnunet import plan_from_nnunet
from medseg.planning.nnunet_plans import NnunetPlans
from medseg.planning.plan import ConfigurationPlan, Plan

CONFIGURATION = "3d_fullres"
_LOWEST_HU, _STRUCTURE_HU = -1000, 60


@dataclass(frozen=True)
class Shape:
    """Size of a plan's network and patch."""

    patch: Triple
    features: tuple[int, ...]
    spacing: Spacing = (1.0, 1.0, 1.0)
    batch: int = 2
    classes: int = 3
    ct: bool = False


def draw_labels(shape: Triple, structures: int, seed: int = 0, radii: tuple[float, float] = (0.03, 0.18)) -> NDArray:
    """Ellipsoids ``(Z, Y, X)`` uint8, later ones over earlier ones; ``radii`` are shares of the longest axis."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    grid = np.ogrid[: shape[0], : shape[1], : shape[2]]
    for index in range(1, structures + 1):
        centre = [random.uniform(n / 4, 3 * n / 4) for n in shape]
        size = np.maximum(random.uniform(*radii, 3) * max(shape), 1.5)
        labels[sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, size, strict=True)) < 1] = index
    return labels


def draw_case(
    shape: Triple, spacing: Spacing, structures: int, seed: int = 0, ct: bool = False
) -> tuple[Volume, NDArray]:
    """An image of whole numbers ``(1, Z, Y, X)`` with its labels; a CT has air around the body."""
    labels = draw_labels(shape, structures, seed)
    random = np.random.default_rng(seed + 1000)
    noise = gaussian_filter(random.standard_normal(shape).astype(np.float32), 1) * 60
    image = _STRUCTURE_HU + noise + 40 * labels
    if ct:
        _, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
        body = ((y / shape[1] - 0.5) / 0.45) ** 2 + ((x / shape[2] - 0.5) / 0.45) ** 2 < 1
        image = np.where(body, image, _LOWEST_HU)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[3, 3] = 1
    return Volume(np.rint(image).astype(np.float32)[None], affine), labels


def write_raw(folder: Path, cases: Sequence[tuple[Volume, NDArray]], shape: Shape) -> list[Case]:
    """A folder of nnU-Net's raw layout, which medseg reads too."""
    written = []
    for index, (image, labels) in enumerate(cases):
        case = Case(
            f"case_{index:03d}",
            (folder / "imagesTr" / f"case_{index:03d}_0000.nii.gz",),
            folder / "labelsTr" / f"case_{index:03d}.nii.gz",
        )
        write_image(case.images[0], image.array, image)
        assert case.labels is not None
        write_labels(case.labels, labels, image)
        written.append(case)
    (folder / "dataset.json").write_text(json.dumps(dataset_json(shape, len(written))), encoding="utf-8")
    return written


def dataset_json(shape: Shape, count: int) -> dict[str, Any]:
    """What nnU-Net wants to know of a dataset."""
    labels = {"background": 0} | {f"structure {value}": value for value in range(1, shape.classes)}
    channel = "CT" if shape.ct else "MR"
    return {"channel_names": {"0": channel}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}


def table_of(classes: int) -> LabelTable:
    """Background and numbered structures."""
    return LabelTable(labels=tuple(Label(name=f"structure {value}", value=value) for value in range(1, classes)))


def plans_json(shape: Shape, name: str = "Dataset999_Benchmark") -> dict[str, Any]:
    """nnU-Net's ``plans.json`` for a plain U-Net of this shape."""
    stages = len(shape.features)
    resampling = {"order": 3, "order_z": 0, "force_separate_z": None}
    scheme = "CTNormalization" if shape.ct else "ZScoreNormalization"
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(shape.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": shape.batch,
        "patch_size": list(shape.patch),
        "median_image_size_in_voxels": [float(n) for n in shape.patch],
        "spacing": list(shape.spacing),
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, **resampling, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **resampling, "order": 1},
        "architecture": architecture,
        "batch_dice": True,
    }
    measured = {"mean": 90.0, "std": 70.0, "percentile_00_5": -60.0, "percentile_99_5": 240.0, "median": 80.0}
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(shape.spacing),
        "original_median_shape_after_transp": [float(n) for n in shape.patch],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": measured | {"min": -100.0, "max": 300.0}},
    }


def write_plans(folder: Path, shape: Shape, count: int = 1) -> tuple[Plan, ConfigurationPlan, LabelTable]:
    """``plans.json`` and ``dataset.json`` for the peer, and what medseg makes of them."""
    folder.mkdir(parents=True, exist_ok=True)
    plans, dataset = plans_json(shape), dataset_json(shape, count)
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    plan, table = plan_from_nnunet(NnunetPlans.load(folder / "plans.json"), dataset, [CONFIGURATION], folder)
    plan.save(folder / "plan.yaml")
    table.save(folder / "labels.yaml")
    return plan, plan.configurations[CONFIGURATION], table


def write_network(path: Path, shape: Shape, seed: int = 0) -> None:
    """A network of this shape and random weights as TorchScript, which both sides of a contest can load."""
    import torch

    from medseg.networks.build import build_network

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes become constants of a traced graph, as they should
        _, configuration, table = write_plans(path.parent, shape)
        torch.manual_seed(seed)
        network = build_network(configuration.network, 3, 1, table.outputs).eval()
        traced = torch.jit.trace(network, torch.zeros(1, 1, *shape.patch), check_trace=False)
        traced.save(str(path))  # pyright: ignore[reportAttributeAccessIssue]


def write_model(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A model folder as nnU-Net's training leaves it, with random weights; gives the folder."""
    import torch

    from medseg.networks.build import build_network

    _, configuration, table = write_plans(folder, shape)
    torch.manual_seed(seed)
    network = build_network(configuration.network, 3, 1, table.outputs)
    weights = {_nnunet_name(name): value for name, value in network.state_dict().items()}
    # nnU-Net's modules hold each layer under two names, and the decoder holds the encoder.
    named = {
        name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1."): v for name, v in weights.items()
    }
    weights |= named
    weights |= {f"decoder.{name}": value for name, value in weights.items() if name.startswith("encoder.")}
    content = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    (folder / "fold_0").mkdir()
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")  # the peer's format, read only by the peer's side
    return folder


def _nnunet_name(name: str) -> str:
    name = name.replace("transposed", "transpconvs").replace("heads", "seg_layers")
    return name.replace(".convs.", ".0.convs.") if name.startswith("encoder.") else name
