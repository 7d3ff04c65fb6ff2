import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from medseg.errors import MedsegError
from medseg.inference.onednn import fast_convolutions
from medseg.inference.options import flip_sets
from medseg.inference.slab import half_gaussian
from medseg.inference.sliding_window import predict_rows
from medseg.inference.tiles import gaussian, tile_grid, tile_starts
from medseg.progress import Silent

CPU = torch.device("cpu")


class Pointwise(nn.Module):
    """Scores that depend on the voxel only, so that tiles and flips must not change them."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv3d(1, classes, 1)

    def forward(self, tiles):
        return self.layer(tiles)


def local(classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, classes, 3, padding=1)).eval()


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def whole(image, networks, patch, classes, **options) -> np.ndarray:
    """All rows put together, each copied before the next is asked for."""
    parts = [
        (rows.start, rows.scores.numpy().copy())
        for rows in predict_rows(image, networks, patch, classes, device=CPU, **options)
    ]
    starts = np.cumsum([0, *(part.shape[1] for _, part in parts)])
    assert [start for start, _ in parts] == starts[:-1].tolist(), "rows come in order and without gaps"
    return np.concatenate([part for _, part in parts], axis=1)


def unstreamed(image, network, patch, classes, step) -> np.ndarray:
    """The textbook way: a volume of scores for the whole image, softmax tile by tile."""
    axes = tile_grid(image.shape[1:], patch, step)
    padded = np.pad(image, [(0, 0), *((a.before, a.padded - a.size - a.before) for a in axes)])
    total = torch.zeros((classes, *padded.shape[1:]))
    for i, z in enumerate(axes[0].starts):
        for j, y in enumerate(axes[1].starts):
            for k, x in enumerate(axes[2].starts):
                window = (slice(None), slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2]))
                with torch.inference_mode(), fast_convolutions(CPU):
                    scores = network(torch.from_numpy(padded[window].copy())[None])[0].softmax(0)
                wz, wy, wx = (torch.from_numpy(axes[n].weights[m]) for n, m in enumerate((i, j, k)))
                total[window].addcmul_(scores, wz[:, None, None] * wy[:, None] * wx)
    inside = tuple(slice(a.before, a.before + a.size) for a in axes)
    return total[(slice(None), *inside)].numpy()


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        (40, 40, (0,)),
        (41, 40, (0, 1)),
        (60, 40, (0, 20)),
        (61, 40, (0, 10, 21)),  # ceil(21 / 20) + 1 = 3 tiles, 10.5 apart, rounded half to even
        (100, 64, (0, 18, 36)),
        (128, 64, (0, 32, 64)),
        (4, 1, (0, 1, 2, 3)),
    ],
)
def test_tiles_stand_where_nnunet_puts_them(size, patch, expected):
    assert tile_starts(size, patch, 0.5) == expected


def test_the_gaussian_is_scipys_filter_of_a_point():
    for patch in (7, 8, 40, 65):
        point = np.zeros(patch)
        point[patch // 2] = 1
        expected = ndimage.gaussian_filter(point, patch / 8, mode="constant", cval=0)
        np.testing.assert_allclose(gaussian(patch), expected / expected.max(), rtol=1e-9)


@pytest.mark.parametrize("step", [0.25, 0.5, 0.7, 1.0])
def test_the_weights_of_all_tiles_sum_to_one_on_every_voxel(step):
    for axis in tile_grid((50, 9, 33), (16, 16, 7), step):
        total = np.zeros(axis.padded)
        for start, weight in zip(axis.starts, axis.weights, strict=True):
            total[start : start + axis.patch] += weight
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(21, 17, 13), (5, 17, 9), (30, 6, 6), (8, 8, 8)])
@pytest.mark.parametrize("step", [0.5, 0.3])
def test_rows_are_bit_equal_to_accumulating_the_whole_volume(shape, step):
    image, network, patch = image_of(*shape), local(3), (8, 8, 6)
    streamed = whole(image, [network], patch, 3, step=step)
    assert streamed.shape == (3, *shape)
    np.testing.assert_array_equal(streamed, unstreamed(image, network, patch, 3, step))


def test_the_number_of_tiles_at_once_does_not_change_the_scores():
    image = image_of(20, 15, 9)
    one = whole(image, [local(3)], (8, 8, 8), 3)
    for tile_batch in (2, 5, 100):
        np.testing.assert_allclose(whole(image, [local(3)], (8, 8, 8), 3, tile_batch=tile_batch), one, atol=1e-6)


def test_a_network_that_sees_single_voxels_gives_the_same_with_and_without_tiles_and_flips():
    image, network = image_of(19, 11, 14), Pointwise(4)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)[None])[0].softmax(0).numpy()
    np.testing.assert_allclose(whole(image, [network], (8, 8, 8), 4, mirror_axes=(0, 1, 2)), expected, atol=1e-6)


def test_a_constant_network_gives_a_constant_answer():
    network = nn.Conv3d(1, 3, 1)
    nn.init.zeros_(network.weight)
    nn.init.constant_(network.bias, 5.0)
    scores = whole(image_of(17, 12, 9), [network], (8, 8, 8), 3, combine="logits", mirror_axes=(1, 2))
    np.testing.assert_allclose(scores, 5, rtol=1e-6)


def test_mirroring_averages_all_combinations_of_flips():
    assert flip_sets((2, 0), True) == [(), (0,), (2,), (0, 2)]
    assert flip_sets((2, 0, 1), "turns") == [(), (0, 1), (0, 2), (1, 2)]
    assert flip_sets((2, 0), False) == flip_sets((), "turns") == [()]
    image, network = image_of(8, 8, 8), local(3)
    found = whole(image, [network], (8, 8, 8), 3, mirror_axes=(0, 2))
    tiles = torch.from_numpy(image)[None]
    with torch.inference_mode():
        flipped = [network(tiles.flip(axes)).softmax(1).flip(axes) for axes in ([2], [4], [2, 4])]
        expected = (network(tiles).softmax(1) + sum(flipped)) / 4
    np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-6)
    turned = whole(image, [network], (8, 8, 8), 3, mirror_axes=(0, 2), mirror="turns")
    with torch.inference_mode():
        expected = (network(tiles).softmax(1) + flipped[2]) / 2
    np.testing.assert_allclose(turned, expected[0].numpy(), atol=1e-6)


def test_folds_are_averaged_as_probabilities_or_as_logits():
    image, folds = image_of(8, 8, 8), [local(3, seed) for seed in range(3)]
    tiles = torch.from_numpy(image)[None]
    with torch.inference_mode():
        logits = torch.stack([fold(tiles)[0] for fold in folds])
    probabilities = whole(image, folds, (8, 8, 8), 3)
    np.testing.assert_allclose(probabilities, logits.softmax(1).mean(0).numpy(), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(whole(image, folds, (8, 8, 8), 3, combine="logits"), logits.mean(0).numpy(), atol=1e-5)


def test_a_2d_network_sees_every_slice_once():
    seen = []

    class Slices(nn.Module):
        def forward(self, tiles):
            seen.append(tiles.shape)
            return torch.cat([tiles, -tiles], dim=1)

    image = image_of(9, 8, 8)
    scores = whole(image, [Slices()], (1, 8, 8), 2, tile_batch=4, combine="logits")
    np.testing.assert_array_equal(scores, np.concatenate([image, -image]))
    assert [shape[0] for shape in seen] == [4, 4, 1]


def test_an_image_smaller_than_the_patch_is_padded_with_zeros_on_both_sides():
    seen = []

    class Watching(nn.Module):
        def forward(self, tiles):
            seen.append(tiles.clone())
            return torch.cat([tiles, -tiles], dim=1)

    image = image_of(3, 8, 5)
    scores = whole(image, [Watching()], (8, 8, 8), 2, combine="logits")
    np.testing.assert_array_equal(scores[0], image[0])
    assert torch.count_nonzero(seen[0]) == image.size
    assert torch.count_nonzero(seen[0][0, 0, 2:5, :, 1:6]) == image.size


def test_nan_from_a_network_stops_with_the_name_of_the_case():
    class Broken(nn.Module):
        def forward(self, tiles):
            logits = torch.cat([tiles, tiles], dim=1)
            logits[0, 0, 0, 0, 0] = float("nan")
            return logits

    with pytest.raises(MedsegError, match=r"'la_007': the network produced NaN"):
        whole(image_of(8, 8, 8), [Broken()], (8, 8, 8), 2, case="la_007")


def test_a_network_with_another_number_of_classes_is_refused():
    with pytest.raises(MedsegError, match="do not belong together"):
        whole(image_of(8, 8, 8), [Pointwise(3)], (8, 8, 8), 4)


def test_a_gpu_that_runs_out_of_memory_gets_fewer_tiles_at_once():
    class Small(nn.Module):
        """Stands for a GPU with room for two tiles."""

        def forward(self, tiles):
            if len(tiles) > 2:
                raise torch.cuda.OutOfMemoryError("full")
            return torch.cat([tiles, -tiles], dim=1)

    image = image_of(20, 8, 8)
    expected = whole(image, [Small()], (8, 8, 8), 2, tile_batch=1)
    np.testing.assert_allclose(whole(image, [Small()], (8, 8, 8), 2, tile_batch=8), expected, atol=1e-6)


def test_the_consumer_is_not_left_in_inference_mode():
    for _ in predict_rows(image_of(12, 8, 8), [Pointwise(2)], (8, 8, 8), 2, device=CPU):
        assert not torch.is_inference_mode_enabled()


def test_the_half_gaussian_is_nnunets_formula():
    patch = (16, 24, 40)
    point = np.zeros(patch)
    point[8, 12, 20] = 1
    expected = ndimage.gaussian_filter(point, [size / 8 for size in patch], mode="constant")
    expected = torch.from_numpy(expected / (expected.max() / 10)).half()
    expected[expected == 0] = expected[expected > 0].min()
    assert torch.equal(half_gaussian(tile_grid(patch, patch, 0.5)), expected)


def test_nnunets_arithmetic_differs_from_ours_by_half_precision_but_in_the_corners():
    image, networks = image_of(21, 30, 17), [local(3), local(3, seed=1)]
    ours = whole(image, networks, (8, 8, 8), 3, combine="logits", mirror_axes=(0, 2))
    theirs = whole(image, networks, (8, 8, 8), 3, combine="nnunet", mirror_axes=(0, 2), tile_batch=3)
    assert theirs.dtype == np.float16
    difference = np.abs(theirs - ours)
    assert 0 < difference[:, 4:-4, 4:-4, 4:-4].max() < 0.002
    # There the Gaussian is so small that half precision has no number for it times a small logit.
    assert theirs[1, 0, 0, 0] == 0
    assert ours[1, 0, 0, 0] != 0


def test_logits_too_large_for_half_precision_are_named():
    class Loud(nn.Module):
        def forward(self, tiles):
            return 20_000 * torch.ones_like(tiles)

    with pytest.raises(MedsegError, match=r"'big'.*too large for half precision.*without compat=nnunet"):
        whole(image_of(8, 8, 8), [Loud()], (8, 8, 8), 1, combine="nnunet", case="big")


class Calls(nn.Module):
    """Counts the tiles that a network is given."""

    def __init__(self, inside):
        super().__init__()
        self.inside, self.tiles = inside, 0

    def forward(self, tiles):
        self.tiles += len(tiles)
        return self.inside(tiles)


def test_tiles_of_a_single_value_are_computed_once_for_each_value_with_the_same_scores():
    image = np.full((1, 40, 24, 16), -1.0, np.float32)
    image[0, 30:34, 4:9, 3:12] = image_of(4, 5, 9)[0]
    image[0, :8] = 2.0
    network, notes = Calls(local(3)), []

    class Notes(Silent):
        def note(self, sentence):
            notes.append(sentence)

    found = whole(image, [network], (8, 8, 8), 3, tile_batch=3, mirror_axes=(1,), progress=Notes())
    tiles = 9 * 5 * 3
    assert network.tiles < 2 * tiles / 2
    (said,) = notes
    assert said.startswith(f"{tiles - network.tiles // 2} of {tiles} tiles repeat one")
    np.testing.assert_array_equal(found, whole_without_reuse(image, local(3), (8, 8, 8), 3))


def whole_without_reuse(image, network, patch, classes) -> np.ndarray:
    """The same image with a second channel in which no tile is constant, and which the network does not look at."""

    class First(nn.Module):
        def forward(self, tiles):
            return network(tiles[:, :1].contiguous())

    noise = np.random.default_rng(3).random(image.shape, dtype=np.float32)
    return whole(np.concatenate([image, noise]), [First()], patch, classes, tile_batch=3, mirror_axes=(1,))


def test_on_a_cpu_the_number_of_tiles_at_once_does_not_change_a_bit():
    image, network = image_of(20, 15, 9), local(3)
    one = whole(image, [network], (8, 8, 8), 3)
    for tile_batch in (2, 5):
        np.testing.assert_array_equal(whole(image, [network], (8, 8, 8), 3, tile_batch=tile_batch), one)


def test_convolutions_by_onednn_are_torchs_own_up_to_rounding():
    network, tile = local(3), torch.from_numpy(image_of(9, 10, 11))[None]
    with torch.inference_mode():
        expected = network(tile)
        with fast_convolutions(CPU):
            found = network(tile)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
