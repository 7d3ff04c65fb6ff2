"""The arithmetic of sizes agrees with nnU-Net's networks, whose numbers were taken with nnunetv2 2.8.1."""

import pytest

from medseg.planning.memory import (
    feature_map_elements,
    forward_flops,
    parameter_count,
    training_memory,
    voxels_per_stage,
)
from medseg.planning.plan import NetworkPlan


def network(features, strides, kernels=None):
    return NetworkPlan(
        features=features,
        strides=strides,
        kernels=kernels or ((3, 3, 3),) * len(features),
        encoder_convolutions=(2,) * len(features),
        decoder_convolutions=(2,) * (len(features) - 1),
    )


ONE, ALL, FLAT = (1, 1, 1), (2, 2, 2), (1, 2, 2)
HIPPOCAMPUS = network((32, 64, 128, 256), (ONE, ALL, ALL, ALL))
SLICES = network((32, 64, 128, 256), (ONE, FLAT, FLAT, FLAT), ((1, 3, 3),) * 4)
THICK = network((32, 64, 128, 256, 320, 320), (ONE, FLAT, ALL, ALL, FLAT, FLAT), ((1, 3, 3), *((3, 3, 3),) * 5))
TINY = network((8, 16, 32, 64), (ONE, ALL, ALL, ALL))
LARGE = network((32, 64, 128, 256, 320, 320), (ONE, ALL, ALL, ALL, ALL, ALL))


@pytest.mark.parametrize(
    ("plan", "channels", "classes", "parameters"),
    [
        (HIPPOCAMPUS, 1, 3, 5_603_177),
        (SLICES, 1, 3, 1_928_489),
        (THICK, 1, 4, 30_377_428),
        (TINY, 2, 5, 351_663),
    ],
)
def test_the_number_of_parameters_is_that_of_nnunets_network(plan, channels, classes, parameters):
    assert parameter_count(plan, channels, classes) == parameters


def test_forward_flops_agree_with_published_counts():
    assert forward_flops(HIPPOCAMPUS, (40, 56, 40), 1, 3) / 2e9 == pytest.approx(19.1, abs=0.1)
    assert 3 * 9 * forward_flops(HIPPOCAMPUS, (40, 56, 40), 1, 3) == pytest.approx(1.03e12, rel=0.01)
    assert forward_flops(LARGE, (128, 128, 128), 1, 3) == pytest.approx(0.955e12, rel=0.001)


def test_feature_maps_are_counted_once_per_convolution():
    plan = network((4, 8), (ONE, ALL))
    assert voxels_per_stage(plan, (8, 8, 8)) == (512, 64)
    encoder, decoder, head = 2 * 4 * 512 + 2 * 8 * 64, 3 * 4 * 512, 3 * 512
    assert feature_map_elements(plan, (8, 8, 8), classes=3) == encoder + decoder + head


def test_a_full_8_gb_plan_is_estimated_near_what_nnunet_was_measured_to_take():
    assert 6e9 < training_memory(LARGE, (128, 128, 128), 2, 1, 3, "cuda").total < 8e9


def test_a_measurement_scales_all_but_the_libraries():
    found = training_memory(HIPPOCAMPUS, (40, 56, 40), 2, 1, 3)
    assert found.step == found.total - found.libraries
    assert found.scaled(1.5).step == pytest.approx(1.5 * found.step, abs=10)
    assert found.scaled(1.5).libraries == found.libraries
