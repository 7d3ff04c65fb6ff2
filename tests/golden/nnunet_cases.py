"""Small nnU-Net models and images that nnU-Net itself and medseg are both given; needs only numpy, which both have.

Everything follows from formulas and numpy's fixed random generator, so only nnU-Net's labels have to be kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Z_FIRST = [2, 1, 0, 3]


@dataclass(frozen=True)
class Model:
    """A network of two stages, how its images look, and what nnU-Net's plans say of it."""

    configuration: str
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    classes: int
    folds: tuple[int, ...]
    mirror_axes: tuple[int, ...] | None
    transpose: tuple[int, int, int]
    reader: str
    shape: tuple[int, int, int]
    """Of the stored image (z, y, x)."""
    image_spacing: tuple[float, float, float]
    turn_degrees: float = 0
    flat_plans: bool = False
    """As nnU-Net's first releases wrote them."""
    blocks: tuple[int, ...] | None = None
    """Residual blocks of each encoder stage; None for the plain U-Net."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Labels that each region joins; then ``classes`` is how many regions there are."""
    written: tuple[int, ...] = ()
    """What stands for each region, in the order of writing."""
    ignore: int | None = None
    previous: str | None = None
    """In a cascade, the configuration whose labels are more channels of the input."""

    @property
    def dimensions(self) -> int:
        return len(self.patch)

    @property
    def channels(self) -> int:
        """Input channels of the network."""
        return len(self.schemes) + (self.classes - 1 if self.previous else 0)


FEATURES = (4, 8)
MODELS = {
    "two_folds": Model(
        "3d_fullres", (16, 16, 16), (1.2, 1.0, 0.9), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)),
        ("ZScoreNormalization",), (True,), 3, (0, 1), (0, 1, 2), (0, 1, 2), "SimpleITKIO",
        (21, 30, 26), (1.0, 1.3, 0.8),
    ),
    "flat": Model(
        "2d", (16, 24), (1.1, 0.9), ((3, 3),) * 2, ((1, 1), (2, 2)),
        ("CTNormalization", "RescaleTo01Normalization"), (False, False), 4, (0,), (0, 1), (1, 2, 0), "NibabelIO",
        (30, 6, 33), (1.0, 4.0, 1.0),
    ),
    "thick_slices": Model(
        "3d_lowres", (8, 16, 16), (4.0, 1.0, 1.0), ((1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2)),
        ("CTNormalization",), (False,), 3, (2,), None, (0, 1, 2), "SimpleITKIO",
        (9, 28, 25), (5.0, 1.25, 0.9), flat_plans=True,
    ),
    "turned_to_ras": Model(
        "3d_own", (16, 16, 16), (1.0, 1.0, 1.0), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)),
        ("NoNormalization",), (False,), 3, (0,), (1, 2), (2, 0, 1), "NibabelIOWithReorient",
        (22, 18, 25), (1.0, 1.2, 1.1), turn_degrees=20,
    ),
    "residual": Model(
        "3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0), ((1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2)),
        ("ZScoreNormalization", "NoNormalization"), (False, False), 4, (0, 1), (0, 1, 2), (0, 1, 2), "SimpleITKIO",
        (14, 25, 27), (2.2, 0.9, 1.1), blocks=(2, 2),
    ),
    "residual_flat": Model(
        "2d", (24, 16), (1.0, 1.0), ((3, 3),) * 2, ((1, 1), (2, 2)),
        ("CTNormalization",), (False,), 3, (0,), (0, 1), (0, 1, 2), "SimpleITKIO",
        (5, 30, 21), (3.0, 1.1, 0.9), flat_plans=True, blocks=(1, 3),
    ),
    "regions": Model(
        "3d_fullres", (16, 16, 16), (1.1, 1.0, 1.0), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)),
        ("ZScoreNormalization", "NoNormalization"), (True, False), 3, (0, 1), (0, 1, 2), (0, 1, 2), "SimpleITKIO",
        (20, 27, 24), (1.3, 0.8, 1.1), regions=((1, 2, 3), (2, 3), (3,)), written=(1, 2, 3),
    ),
    "regions_flat": Model(
        "2d", (16, 24), (1.0, 1.0), ((3, 3),) * 2, ((1, 1), (2, 2)),
        ("ZScoreNormalization",), (False,), 2, (0,), (0, 1), (2, 0, 1), "NibabelIO",
        (26, 7, 30), (1.0, 3.5, 1.0), regions=((1, 2), (1,)), written=(2, 1), ignore=3,
    ),
    "ignoring": Model(
        "3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0), ((1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2)),
        ("CTNormalization",), (False,), 3, (0,), (0, 1, 2), (0, 1, 2), "SimpleITKIO",
        (13, 24, 26), (2.0, 1.1, 0.9), ignore=3,
    ),
}  # fmt: skip


CASCADES = {
    "cascade": (
        Model(
            "3d_lowres", (16, 16, 16), (2.0, 2.0, 2.0), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)),
            ("ZScoreNormalization",), (False,), 3, (0, 1), (0, 1, 2), (0, 1, 2), "SimpleITKIO",
            (34, 44, 40), (1.0, 1.2, 0.9),
        ),
        Model(
            "3d_cascade_fullres", (16, 24, 16), (1.1, 1.0, 1.0), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)),
            ("ZScoreNormalization",), (False,), 3, (0, 1), (0, 1, 2), (0, 1, 2), "SimpleITKIO",
            (34, 44, 40), (1.0, 1.2, 0.9), previous="3d_lowres",
        ),
    ),
    "thick_cascade": (
        Model(
            "3d_lowres", (8, 16, 16), (5.0, 1.6, 1.6), ((1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2)),
            ("CTNormalization",), (False,), 4, (0,), (0, 1), (2, 0, 1), "NibabelIO",
            (40, 44, 12), (0.9, 1.0, 4.5),
        ),
        Model(
            "3d_cascade_fullres", (8, 16, 24), (4.0, 0.8, 0.8), ((1, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2)),
            ("CTNormalization",), (False,), 4, (0,), (0, 1), (2, 0, 1), "NibabelIO",
            (40, 44, 12), (0.9, 1.0, 4.5), blocks=(1, 2), previous="3d_lowres",
        ),
    ),
}  # fmt: skip


def plans_of_cascade(stages: tuple[Model, Model]) -> dict:
    """plans.json with both configurations."""
    plans, later = plans_of(stages[0]), plans_of(stages[1])["configurations"]
    plans["configurations"][stages[0].configuration]["next_stage"] = stages[1].configuration
    plans["configurations"][stages[1].configuration] = later["base"] | {"previous_stage": stages[0].configuration}
    return plans


def plans_of(model: Model) -> dict:
    """plans.json."""
    configuration = {
        "data_identifier": "nnUNetPlans_x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(model.patch),
        "median_image_size_in_voxels": [float(2 * n) for n in model.patch],
        "spacing": list(model.spacing),
        "normalization_schemes": list(model.schemes),
        "use_mask_for_norm": list(model.masked),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset001_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [model.image_spacing[axis] for axis in model.transpose],
        "original_median_shape_after_transp": [model.shape[axis] for axis in model.transpose],
        "image_reader_writer": model.reader,
        "transpose_forward": list(model.transpose),
        "transpose_backward": [int(axis) for axis in np.argsort(model.transpose)],
        "configurations": {
            "base": configuration | (_flat_network(model) if model.flat_plans else {"architecture": _network(model)}),
            model.configuration: {"inherits_from": "base", "batch_size": 3},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): {"mean": 90.0, "std": 70.0, "percentile_00_5": -60.0, "percentile_99_5": 240.0, "median": 80.0,
                         "min": -100.0, "max": 300.0}
            for index in range(len(model.schemes))
        },
    }  # fmt: skip


def _network(model: Model) -> dict:
    d = model.dimensions
    encoder = {"n_blocks_per_stage": list(model.blocks)} if model.blocks else {"n_conv_per_stage": [2, 2]}
    kind = "ResidualEncoderUNet" if model.blocks else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            **encoder,
            "n_stages": 2,
            "features_per_stage": list(FEATURES),
            "conv_op": f"torch.nn.modules.conv.Conv{d}d",
            "kernel_sizes": [list(kernel) for kernel in model.kernels],
            "strides": [list(stride) for stride in model.strides],
            "n_conv_per_stage_decoder": [1 if model.blocks else 2],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{d}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _flat_network(model: Model) -> dict:
    return {
        "UNet_class_name": "ResidualEncoderUNet" if model.blocks else "PlainConvUNet",
        "UNet_base_num_features": FEATURES[0],
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": list(model.blocks or (2, 2)),
        "n_conv_per_stage_decoder": [1 if model.blocks else 2],
        "num_pool_per_axis": [1] * model.dimensions,
        "pool_op_kernel_sizes": [list(stride) for stride in model.strides],
        "conv_kernel_sizes": [list(kernel) for kernel in model.kernels],
    }


def dataset_of(model: Model) -> dict:
    """dataset.json."""
    labels: dict = {f"structure_{value}": value for value in range(1, model.classes)}
    if model.regions:
        labels = {f"region_{number}": list(values) for number, values in enumerate(model.regions)}
    return {
        "channel_names": {str(index): f"channel_{index}" for index in range(len(model.schemes))},
        "labels": {"background": 0} | labels | ({} if model.ignore is None else {"ignore": model.ignore}),
        "numTraining": 5,
        "file_ending": ".nii.gz",
    } | ({"regions_class_order": list(model.written)} if model.regions else {})


def weights_of(model: Model, fold: int) -> dict[str, np.ndarray]:
    """Every layer once, under nnU-Net's names."""
    random = np.random.default_rng(100 + fold + (10 if model.previous else 0))
    fine, coarse = FEATURES
    found: dict[str, np.ndarray] = {}

    def layer(
        name: str, c_out: int, c_in: int, size: tuple[int, ...], transposed: bool = False, bias: bool = True
    ) -> None:
        shape = (c_in, c_out, *size) if transposed else (c_out, c_in, *size)
        scale = np.sqrt(2 / (c_in * np.prod(size)))
        found[f"{name}.weight"] = (scale * random.standard_normal(shape)).astype(np.float32)
        if bias:
            found[f"{name}.bias"] = (0.1 * random.standard_normal(c_out)).astype(np.float32)

    def block(name: str, c_out: int, c_in: int, size: tuple[int, ...], bias: bool = True) -> None:
        layer(f"{name}.conv", c_out, c_in, size, bias=bias)
        found[f"{name}.norm.weight"] = (1 + 0.2 * random.standard_normal(c_out)).astype(np.float32)
        found[f"{name}.norm.bias"] = (0.2 * random.standard_normal(c_out)).astype(np.float32)

    def residual_stage(
        name: str, c_out: int, c_in: int, size: tuple[int, ...], stride: tuple[int, ...], n: int
    ) -> None:
        for index in range(n):
            block(f"{name}.blocks.{index}.conv1", c_out, c_in, size)
            block(f"{name}.blocks.{index}.conv2", c_out, c_out, size)
            if c_in != c_out:
                place = 1 if max(stride) > 1 else 0  # behind the pooling
                block(f"{name}.blocks.{index}.skip.{place}", c_out, c_in, (1,) * model.dimensions, bias=False)
            c_in = c_out

    if model.blocks:
        block("encoder.stem.convs.0", fine, model.channels, model.kernels[0])
        for stage, (c_out, c_in) in enumerate(((fine, fine), (coarse, fine))):
            place = f"encoder.stages.{stage}"
            residual_stage(place, c_out, c_in, model.kernels[stage], model.strides[stage], model.blocks[stage])
    for stage, (c_out, c_in) in enumerate(() if model.blocks else ((fine, model.channels), (coarse, fine))):
        block(f"encoder.stages.{stage}.0.convs.0", c_out, c_in, model.kernels[stage])
        block(f"encoder.stages.{stage}.0.convs.1", c_out, c_out, model.kernels[stage])
    block("decoder.stages.0.convs.0", fine, 2 * fine, model.kernels[0])
    if not model.blocks:
        block("decoder.stages.0.convs.1", fine, fine, model.kernels[0])
    layer("decoder.transpconvs.0", fine, coarse, model.strides[1], transposed=True)
    layer("decoder.seg_layers.0", model.classes, fine, (1,) * model.dimensions)
    return found


def image_of(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Channels (C, Z, Y, X) of whole numbers with a border of zeros, and the affine of (x, y, z), RAS+.

    The last model's image is stored obliquely, from left to right, back to front and downwards.
    """
    z, y, x = np.meshgrid(*(np.arange(n) for n in model.shape), indexing="ij")
    channels = []
    for channel in range(len(model.schemes)):
        waves = np.cos(0.5 * z + channel) + np.cos(0.37 * y * (1 + channel)) + np.sin(0.29 * x + 0.1 * y)
        noise = np.random.default_rng(channel).integers(-20, 20, model.shape)
        image = np.round(80 + 60 * waves).astype(np.int16) + noise
        image[:, :2] = image[:, :, -3:] = 0
        channels.append(image)
    affine = np.diag([*model.image_spacing[::-1], 1.0])
    if model.turn_degrees:
        affine[:3, :3] = turn(model.turn_degrees) @ affine[:3, :3] @ np.diag([1, -1, -1])
    affine[:3, 3] = (-20, 30, 7)
    return np.stack(channels).astype(np.int16), affine


def turn(degrees: float) -> np.ndarray:
    """About x, then about z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def copies_of(array: np.ndarray, affine: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Copies of an image (Z, Y, X) with an affine of (x, y, z), RAS+: other ways to store it, and other spacings."""
    yield "ras", array, affine
    flipped = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    flipped[:3, 3] += affine[:3, :2] @ [array.shape[2] - 1, array.shape[1] - 1]
    yield "lps", array[:, ::-1, ::-1], flipped
    oblique = affine.copy()
    oblique[:3, :3] = turn(25) @ affine[:3, :3]
    yield "oblique", array, oblique
    yield "other_axes", array.transpose(2, 0, 1), affine[:, [1, 2, 0, 3]]
    yield "thick_slices", array[::4], affine @ np.diag([1.0, 1.0, 4.0, 1.0])
    yield "other_spacing", array, affine @ np.diag([0.9, 0.8, 1.2, 1.0])


REGIONS_OF_LOSS = ((1, 2, 3), (2, 3))


def loss_batch(regions: bool, ignoring: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits (2, outputs, 3, 4, 5) float64 for three structures or two regions, and labels; 4 is ignored."""
    random = np.random.default_rng(7)
    logits = 2 * random.standard_normal((2, len(REGIONS_OF_LOSS) if regions else 4, 3, 4, 5))
    return logits, random.integers(0, 5 if ignoring else 4, (2, 3, 4, 5))
