"""preset=nnunet plans what nnU-Net 2.8.1 plans: known vectors, the official planner's output, and a real plans file."""

import json
from pathlib import Path

import pytest

from medseg.cases.formats import read_dataset
from medseg.planning.architectures import ARCHITECTURES, Architecture
from medseg.planning.measure import measure_fingerprint
from medseg.planning.memory import feature_map_elements
from medseg.planning.patch import Sizing, size_configuration, to_network
from medseg.planning.plan import Machine
from medseg.planning.presets import Budget, load_preset
from medseg.planning.rules import make_plan
from medseg.planning.topology import find_topology
from medseg.progress import Silent

GOLDEN = Path(__file__).parents[1] / "golden" / "nnunet_plans.json"
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


def test_the_memory_proxy_of_residual_networks_has_the_documented_values(monkeypatch):
    kind = Architecture("residual", "", blocks="residual", encoder=(1, 3, 4, 6), decoder=1)
    monkeypatch.setitem(ARCHITECTURES, "residual", kind)
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


def test_the_hippocampus_vector_of_the_residual_preset_m_agrees(monkeypatch):
    kind = Architecture("residual", "", blocks="residual", encoder=(1, 3, 4, 6), decoder=1)
    monkeypatch.setitem(ARCHITECTURES, "residual", kind)
    solid = Sizing(kind, 1, 3, 32, Budget(elements=680e6, reference_batch=2, fitted_batch=2, widest=10), 2, None)
    flat = Sizing(kind, 1, 3, 32, Budget(elements=135e6, reference_batch=12, fitted_batch=12, widest=16), 2, None)
    sized = size_configuration(solid, (1, 1, 1), (36, 50, 35), 1.0)
    assert (sized.patch, sized.batch) == ((40, 56, 40), 58)
    sized = size_configuration(flat, (1, 1), (50, 35), 1.0)
    assert (sized.patch, sized.batch) == ((1, 56, 40), 1618)


@pytest.mark.parametrize("index", range(len(json.loads(GOLDEN.read_text()))))
def test_random_fingerprints_get_the_official_planners_plan(index, make_fingerprint, make_labels):
    case = json.loads(GOLDEN.read_text())[index]
    measured, expected = case["fingerprint"], case["plan"]
    plan = official_plan_of(
        make_fingerprint,
        make_labels,
        measured["spacings"],
        measured["shapes_after_crop"],
        measured["classes"],
        channel=measured["channel"],
        relative_volume=measured["median_relative_size_after_cropping"],
    )
    assert list(plan.axis_order) == expected["transpose_forward"]
    assert set(plan.configurations) == set(expected["configurations"])
    for name, official in expected["configurations"].items():
        ours = plan.configurations[name]
        if name == "3d_cascade_fullres":
            assert ours.previous == official["previous_stage"]
            continue
        if len(official["features"]) == 1:
            # nnU-Net plans a network without a decoder for such thin images, which can't be trained.
            assert len(ours.network.features) > 1
            continue
        axes = slice(1, None) if name == "2d" else slice(None)
        assert list(ours.patch_size[axes]) == official["patch_size"]
        assert ours.batch_size == official["batch_size"]
        assert ours.spacing[axes] == pytest.approx(official["spacing"])
        assert list(ours.median_shape[axes]) == [round(n) for n in official["median_image_size_in_voxels"]]
        assert ours.batch_dice == official["batch_dice"]
        assert list(ours.network.features) == official["features"]
        assert [list(s[axes]) for s in ours.network.strides] == official["strides"]
        assert [list(k[axes]) for k in ours.network.kernels] == official["kernels"]
        assert plan.channels[0].normalisation == SCHEMES[official["normalisation"]]
        assert plan.channels[0].masked == official["masked"]


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
