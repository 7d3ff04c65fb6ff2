"""preset=nnunet plans what nnU-Net 2.8.1 plans: known vectors, the official planner's output, and a real plans file."""

import gzip
import json
from pathlib import Path

import pytest

from medseg.cases.formats import read_dataset
from medseg.planning.architectures import ARCHITECTURES
from medseg.planning.measure import measure_fingerprint
from medseg.planning.memory import feature_map_elements
from medseg.planning.patch import to_network
from medseg.planning.plan import Machine
from medseg.planning.presets import load_preset
from medseg.planning.rules import make_plan
from medseg.planning.topology import find_topology
from medseg.progress import Silent

GOLDEN = Path(__file__).parents[1] / "golden" / "nnunet_plans.json.gz"
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb",
}
# name: spacing, median shape, classes, cases, 3D patch, batch, strides after stage 0, first kernels, 2D patch, batch
VECTORS = {
    "hippocampus": (
        ((1, 1, 1), (36, 50, 35), 3, 260),
        ((40, 56, 40), 9, "222 222 222", "333 333"),
        ((56, 40), 366),
    ),
    "prostate": (
        ((3.6, 0.62, 0.62), (20, 320, 319), 3, 32),
        ((20, 320, 256), 2, "122 122 222 222 122 122", "133 133"),
        ((320, 320), 32),
    ),
    "heart chambers": (
        ((5, 1.56, 1.56), (18, 237, 208), 4, 200),
        ((20, 256, 224), 4, "122 222 222 122 122", "133 333"),
        ((256, 224), 56),
    ),
    "left atrium": (
        ((1.37, 1.25, 1.25), (115, 320, 232), 2, 20),
        ((80, 192, 160), 2, "222 222 222 222 122", "333 333"),
        ((320, 256), 40),
    ),
    "liver": (
        ((1, 0.7676, 0.7676), (482, 512, 512), 3, 131),
        ((128, 128, 128), 2, "222 222 222 222 222", "333 333"),
        ((512, 512), 12),
    ),
}


def digits(triples):
    return " ".join("".join(str(n) for n in triple) for triple in triples)


def official_plan_of(make_fingerprint, make_labels, spacings, shapes, classes, **more):
    fingerprint = make_fingerprint(spacings, shapes, **more)
    return make_plan(fingerprint, make_labels(classes), load_preset("nnunet"), Machine(device="any"))


@pytest.mark.parametrize("name", VECTORS)
def test_known_datasets_get_nnunets_plan(name, make_fingerprint, make_labels):
    (spacing, shape, classes, cases), (patch, batch, strides, kernels), (patch_2d, batch_2d) = VECTORS[name]
    plan = official_plan_of(make_fingerprint, make_labels, [spacing] * cases, [shape] * cases, classes)
    full, flat = plan.configurations["3d_fullres"], plan.configurations["2d"]
    assert (full.patch_size, full.batch_size) == (patch, batch)
    assert digits(full.network.strides[1:]) == strides
    assert digits(full.network.kernels[:2]) == kernels
    assert (flat.patch_size, flat.batch_size) == ((1, *patch_2d), batch_2d)
    assert full.batch_dice == ("3d_lowres" in plan.configurations) == (name == "liver")
    assert flat.batch_dice
    assert full.network.features[-1] <= 320
    assert flat.network.features[-1] <= 512


def test_liver_gets_a_lowres_and_a_cascade(make_fingerprint, make_labels):
    (spacing, shape, classes, cases), _, _ = VECTORS["liver"]
    plan = official_plan_of(make_fingerprint, make_labels, [spacing] * cases, [shape] * cases, classes)
    low, cascade = plan.configurations["3d_lowres"], plan.configurations["3d_cascade_fullres"]
    assert (low.patch_size, low.batch_size, low.median_shape) == ((128, 128, 128), 2, (193, 205, 205))
    assert low.spacing == pytest.approx((2.5001, 1.9191, 1.9191), abs=5e-5)
    assert not low.batch_dice
    assert cascade.previous == "3d_lowres"
    assert cascade.patch_size == plan.configurations["3d_fullres"].patch_size


def test_the_memory_proxy_of_residual_networks_has_the_documented_values():
    kind = ARCHITECTURES["residual_unet"]
    solid, patch = to_network(find_topology((1, 1, 1), (128, 128, 128)), kind, 32, 10)
    assert feature_map_elements(solid, patch, classes=3, every_head=True) == 558_319_104
    flat, patch = to_network(find_topology((1, 1), (512, 512)), kind, 32, 16)
    assert len(flat.features) == 8
    shallow = flat.model_copy(
        update={
            "features": flat.features[:7],
            "strides": flat.strides[:7],
            "kernels": flat.kernels[:7],
            "encoder_convolutions": flat.encoder_convolutions[:7],
            "decoder_convolutions": flat.decoder_convolutions[:6],
        }
    )
    assert feature_map_elements(shallow, patch, classes=3, every_head=True) == 129_793_792


def test_the_hippocampus_vector_of_the_residual_preset_m_agrees(make_fingerprint, make_labels):
    fingerprint = make_fingerprint([(1, 1, 1)] * 260, [(36, 50, 35)] * 260)
    plan = make_plan(fingerprint, make_labels(3), load_preset("nnunet_resenc_m"), Machine(device="any"))
    full, flat = plan.configurations["3d_fullres"], plan.configurations["2d"]
    assert (full.patch_size, full.batch_size) == ((40, 56, 40), 58)
    assert (flat.patch_size, flat.batch_size) == ((1, 56, 40), 1618)


def values_of(plan, names):
    """Every number of a Plan that nnU-Net's planner gives as well, by configuration and name, as plain data."""
    yield "axis order", list(plan.axis_order)
    yield "configurations", sorted(plan.configurations)
    for name in names:
        ours = plan.configurations[name]
        if ours.previous is not None:
            yield f"{name} previous", ours.previous
            continue
        axes = slice(1, None) if name == "2d" else slice(None)
        yield f"{name} patch", list(ours.patch_size[axes])
        yield f"{name} batch", ours.batch_size
        yield f"{name} spacing", [round(mm, 9) for mm in ours.spacing[axes]]
        yield f"{name} median shape", list(ours.median_shape[axes])
        yield f"{name} batch Dice", ours.batch_dice
        yield f"{name} features", list(ours.network.features)
        yield f"{name} strides", [list(stride[axes]) for stride in ours.network.strides]
        yield f"{name} kernels", [list(kernel[axes]) for kernel in ours.network.kernels]
        yield f"{name} encoder", list(ours.network.encoder_convolutions)
        yield f"{name} decoder", list(ours.network.decoder_convolutions)
        yield f"{name} normalisation", [channel.normalisation for channel in plan.channels]
        yield f"{name} masked", [channel.masked for channel in plan.channels]


def official_values_of(official, names):
    """The same values, in the same order, from nnU-Net's plans file."""
    yield "axis order", official["transpose_forward"]
    yield "configurations", sorted(official["configurations"])
    for name in names:
        theirs = official["configurations"][name]
        if "previous_stage" in theirs:
            yield f"{name} previous", theirs["previous_stage"]
            continue
        yield f"{name} patch", theirs["patch_size"]
        yield f"{name} batch", theirs["batch_size"]
        yield f"{name} spacing", [round(mm, 9) for mm in theirs["spacing"]]
        yield f"{name} median shape", [round(n) for n in theirs["median_image_size_in_voxels"]]
        yield f"{name} batch Dice", theirs["batch_dice"]
        yield f"{name} features", theirs["features"]
        yield f"{name} strides", theirs["strides"]
        yield f"{name} kernels", theirs["kernels"]
        depth = len(theirs["features"])
        yield f"{name} encoder", list(theirs["encoder"])[:depth]
        yield f"{name} decoder", list(theirs["decoder"])[: depth - 1]
        yield f"{name} normalisation", [SCHEMES[scheme] for scheme in theirs["normalisation"]]
        yield f"{name} masked", theirs["masked"]


def trainable(official):
    """Without those networks of one stage that nnU-Net plans for tiny images: they can't be trained; ours have two."""
    return [name for name, theirs in official["configurations"].items() if len(theirs.get("features", "ab")) > 1]


def numbers_in(value):
    return sum(map(numbers_in, value)) if isinstance(value, list) else 1


@pytest.mark.parametrize("preset", ["nnunet", "nnunet_resenc_m", "nnunet_resenc_l", "nnunet_resenc_xl"])
def test_every_number_of_the_official_planners_agrees(preset, make_fingerprint, make_labels):
    differences, fingerprints, compared, untrainable = [], 0, 0, 0
    for index, case in enumerate(json.loads(gzip.decompress(GOLDEN.read_bytes()))):
        measured, official = case["fingerprint"], case["plans"][preset]
        fingerprint = make_fingerprint(
            measured["spacings"],
            measured["shapes_after_crop"],
            channel=measured["channel"],
            channels=len(measured["foreground_intensity_properties_per_channel"]),
            relative_volume=measured["median_relative_size_after_cropping"],
        )
        plan = make_plan(fingerprint, make_labels(measured["classes"]), load_preset(preset), Machine(device="any"))
        names = trainable(official)
        untrainable += len(official["configurations"]) - len(names)
        fingerprints += 1
        for (what, ours), (_, theirs) in zip(values_of(plan, names), official_values_of(official, names), strict=True):
            compared += numbers_in(theirs)
            if ours != theirs:
                differences.append((index, what, ours, theirs))
    print(f"{preset}: {fingerprints} fingerprints, {compared} values compared, {len(differences)} differences")
    assert not differences
    assert fingerprints >= 100
    assert compared > 10_000
    assert untrainable <= 10


@pytest.mark.real
def test_every_value_of_the_real_hippocampus_plans_file_agrees(make_labels, real_data):
    folder = real_data / "nnunet_model" / "model"
    official = json.loads((folder / "plans.json").read_text())
    dataset = read_dataset(real_data / "hippocampus")
    plan = make_plan(
        measure_fingerprint(dataset, "stored", Silent(), workers=2),
        dataset.labels,
        load_preset("nnunet"),
        Machine(device="any"),
    )
    assert set(plan.configurations) == {"2d", "3d_fullres"}
    assert list(plan.axis_order) == official["transpose_forward"]
    for name, ours in plan.configurations.items():
        theirs = official["configurations"][name]
        network = theirs["architecture"]["arch_kwargs"]
        axes = slice(1, None) if name == "2d" else slice(None)
        assert list(ours.patch_size[axes]) == theirs["patch_size"]
        assert ours.batch_size == theirs["batch_size"]
        assert list(ours.median_shape[axes]) == theirs["median_image_size_in_voxels"]
        assert list(ours.spacing[axes]) == theirs["spacing"]
        assert ours.batch_dice == theirs["batch_dice"]
        assert list(ours.network.features) == network["features_per_stage"]
        assert [list(stride[axes]) for stride in ours.network.strides] == network["strides"]
        assert [list(kernel[axes]) for kernel in ours.network.kernels] == network["kernel_sizes"]
        assert list(ours.network.encoder_convolutions) == network["n_conv_per_stage"]
        assert list(ours.network.decoder_convolutions) == network["n_conv_per_stage_decoder"]
        assert [SCHEMES[scheme] for scheme in theirs["normalization_schemes"]] == [
            c.normalisation for c in plan.channels
        ]
        assert theirs["use_mask_for_norm"] == [c.masked for c in plan.channels]
