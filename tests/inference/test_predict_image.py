import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.errors import SettingsError
from medseg.images.volume import Volume
from medseg.inference.memory import choose_tile_batch
from medseg.inference.predict import predict_image
from medseg.networks.build import build_network
from medseg.planning.plan import ChannelPlan, ConfigurationPlan, Machine, NetworkPlan, Plan, TrainingPlan
from medseg.preprocessing.prepare import prepare_image

from tiny import nested_regions, table_of


def configuration_of(patch=(8, 8, 8), spacing=(2.0, 1.0, 1.0), dimensions=3) -> ConfigurationPlan:
    flat = dimensions == 2
    return ConfigurationPlan(
        dimensions=dimensions,
        spacing=spacing,
        median_shape=(16, 16, 16),
        patch_size=patch,
        batch_size=2,
        batch_dice=False,
        network=NetworkPlan(
            features=(4, 8),
            strides=((1, 1, 1), (1, 2, 2) if flat else (2, 2, 2)),
            kernels=((1, 3, 3),) * 2 if flat else ((3, 3, 3),) * 2,
            encoder_convolutions=(1, 1),
            decoder_convolutions=(1,),
        ),
    )


def plan_of(configuration, axis_order=(0, 1, 2)) -> Plan:
    return Plan(
        dataset="tiny",
        preset="default",
        orientation="canonical",
        axis_order=axis_order,
        channels=(ChannelPlan(name="value", normalisation="none"),),
        machine=Machine(device="cpu"),
        configurations={"3d_fullres": configuration},
        default_configuration="3d_fullres",
        training=TrainingPlan(),
        fingerprint="0" * 64,
    )


class Threshold(nn.Module):
    """Class = intensity: the segmentation of an image is known, whatever its orientation."""

    def forward(self, tiles):
        return torch.cat([-40 * (tiles - value).abs() for value in range(4)], dim=1)


def body() -> np.ndarray:
    """Boxes of values 1 to 3, nowhere symmetric, in a background of 0."""
    image = np.zeros((14, 18, 20), np.float32)
    image[2:11, 3:16, 2:17] = 1
    image[3:7, 4:9, 3:14] = 2
    image[8:10, 10:15, 9:16] = 3
    return image


ORIENTATIONS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS[::5])
@pytest.mark.parametrize("axis_order", [(0, 1, 2), (2, 0, 1)])
def test_labels_lie_where_the_structures_lie_in_every_orientation(permutation, signs, axis_order):
    image = body()
    spacing = (2.0, 1.0, 1.5)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for world, (axis, sign) in enumerate(zip(permutation, signs, strict=True)):
        affine[world, axis] = sign * spacing[axis]
    configuration = configuration_of(spacing=(1.25, 1.25, 1.25))
    plan = plan_of(configuration, axis_order)
    prepared, grid = prepare_image(Volume(image[None], affine), plan, configuration)
    found = predict_image(prepared, grid, [Threshold()], configuration, labels=table_of(3), mirror_axes=(0, 1, 2))
    assert found.shape == image.shape
    for value in range(1, 4):
        there, expected = np.argwhere(found == value), np.argwhere(image == value)
        assert np.abs(there.mean(0) - expected.mean(0)).max() < 1
        overlap = ((found == value) & (image == value)).sum()
        assert 2 * overlap / (len(there) + len(expected)) > 0.6


def test_on_the_files_own_grid_every_voxel_is_right():
    image = body()
    configuration = configuration_of(spacing=(1.0, 1.0, 1.0))
    prepared, grid = prepare_image(
        Volume(image[None], np.diag([-1.0, 1, -1, 1])), plan_of(configuration), configuration
    )
    found = predict_image(prepared, grid, [Threshold()], configuration, labels=table_of(3), mirror_axes=(0, 1, 2))
    np.testing.assert_array_equal(found, image)


def test_a_2d_network_predicts_every_slice_of_a_volume():
    configuration = configuration_of((1, 8, 8), dimensions=2)
    torch.manual_seed(0)
    network = build_network(configuration.network, 2, 1, 3).eval()
    image = np.random.default_rng(0).normal(size=(1, 7, 8, 8)).astype(np.float32)
    upright = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    prepared, grid = prepare_image(Volume(image, upright), plan_of(configuration), configuration)
    np.testing.assert_array_equal(prepared, image)  # in 2D the distance of slices is kept
    found = predict_image(prepared, grid, [network], configuration, labels=table_of(2), mirror_axes=(0, 1, 2))
    flips = ([], [3], [4], [3, 4])
    with torch.inference_mode():
        for z in range(7):
            tile = torch.from_numpy(image[None, :, z : z + 1])
            expected = sum(network(tile.flip(axes)).softmax(1).flip(axes) for axes in flips)
            np.testing.assert_array_equal(found[z], expected[0, :, 0].argmax(0).numpy())


def test_regions_are_averaged_as_probabilities_and_written_in_their_order():
    configuration = configuration_of(spacing=(1.0, 1.0, 1.0))
    table = table_of(3, regions=nested_regions(3))
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(build_network(configuration.network, 3, 1, 3).eval())
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    prepared, grid = prepare_image(Volume(image, np.eye(4)[[2, 1, 0, 3]]), plan_of(configuration), configuration)
    found = predict_image(prepared, grid, networks, configuration, labels=table, mirror_axes=(2,))
    with torch.inference_mode():
        tile = torch.from_numpy(prepared[None])
        expected = sum(network(tile).sigmoid() + network(tile.flip([4])).sigmoid().flip([4]) for network in networks)
    labels = np.zeros((8, 8, 8), np.uint8)
    for index, probability in enumerate((expected[0] / 4).numpy(), start=1):
        labels[probability > 0.5] = index
    assert len(np.unique(labels)) == 4
    np.testing.assert_array_equal(found, grid.restore_orientation(labels))


def test_networks_are_left_in_the_mode_in_which_they_came():
    configuration = configuration_of(spacing=(1.0, 1.0, 1.0))
    prepared, grid = prepare_image(Volume(body()[None], np.eye(4)), plan_of(configuration), configuration)
    network = build_network(configuration.network, 3, 1, 4).train()
    predict_image(prepared, grid, [network], configuration, labels=table_of(3))
    assert network.training


@pytest.mark.parametrize("step", [0.0, 1.5, -1.0])
def test_a_step_that_leaves_gaps_is_refused(step):
    configuration = configuration_of(spacing=(1.0, 1.0, 1.0))
    prepared, grid = prepare_image(Volume(body()[None], np.eye(4)), plan_of(configuration), configuration)
    with pytest.raises(SettingsError, match="step should be above 0"):
        predict_image(prepared, grid, [Threshold()], configuration, labels=table_of(3), step=step)


def test_a_cpu_takes_one_large_tile_or_a_few_small_ones_at_once():
    cpu = torch.device("cpu")
    assert choose_tile_batch(configuration_of((64, 64, 64)), 1, 3, cpu) == 1
    assert choose_tile_batch(configuration_of((128, 128, 128)), 1, 3, cpu) == 1
    assert choose_tile_batch(configuration_of((1, 256, 256), dimensions=2), 1, 3, cpu) == 4


_PEAK = """
import resource, sys
import numpy as np, torch
from torch import nn
sys.path[:0] = sys.argv[2:]
from test_predict_image import configuration_of
from medseg.inference.predict import predict_image
from medseg.preprocessing.grid import Grid
from tiny import table_of

torch.set_num_threads(1)
depth, classes = int(sys.argv[1]), 64
shape = (depth, 64, 64)
grid = Grid(file_shape=(depth, 80, 80), permutation=(0, 1, 2), flips=(False,) * 3, crop_lower=(0, 0, 0),
            cropped_shape=(depth, 80, 80), cropped_spacing=(1, .8, .8),
            prepared_shape=shape, prepared_spacing=(1, 1, 1))
image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
predict_image(image, grid, [nn.Conv3d(1, classes, 1)], configuration_of((8, 64, 64)), labels=table_of(classes - 1),
              tile_batch=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_classes_times_the_volume():
    here = Path(__file__)

    def peak(depth: int) -> int:
        words = [sys.executable, "-c", _PEAK, str(depth), str(here.parent), str(here.parents[1]), str(here.parents[2])]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    growth, whole = peak(240) - peak(40), 64 * 200 * 64 * 64 * 4
    assert growth < whole / 10
