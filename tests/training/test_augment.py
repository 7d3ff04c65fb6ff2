"""Augmentation keeps image and labels together, follows from the seed, and does what its recipe says as often."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from medseg.planning.plan import AugmentationPlan, TrainingPlan
from medseg.training import augmentation_intensity as intensity
from medseg.training import augmentation_scanner as scanner
from medseg.training import augmentation_spatial as spatial
from medseg.training.augment import augment_batch
from medseg.training.augmentation_colour import change_colour, change_stain, colour_channels
from medseg.training.augmentation_deform import deform, exchange_boxes

from tiny import shallow_configuration

STEPS = tuple(AugmentationPlan.model_fields)
OFF = AugmentationPlan(**dict.fromkeys(STEPS, False))


def a_configuration(patch=(12, 16, 14), dimensions=3):
    return shallow_configuration(patch, dimensions=dimensions)


def a_plan(augmentation=None, seed=1, **steps):
    if augmentation is None:
        augmentation = OFF.model_copy(update=steps) if steps else AugmentationPlan()
    return TrainingPlan(augmentation=augmentation, seed=seed)


def only(step):
    return a_plan(**{step: True})


def blobs(batch, size, channels=1, seed=0):
    """Smooth images and labels that are the image above a threshold."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=(batch, *size)), [0, *(1 if n == 1 else 3 for n in size)])
    field /= field.std()
    labels = (field > 0.3).astype(np.uint8) + (field > 1)
    images = np.repeat(field[:, None], channels, axis=1).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels)


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


SETTINGS = [((12, 16, 14), 3), ((4, 16, 14), 3), ((1, 16, 14), 2)]


@pytest.mark.parametrize(("patch", "dimensions"), SETTINGS)
class TestAugmentation:
    def batch(self, patch, dimensions, size=4, channels=3):
        configuration = a_configuration(patch, dimensions)
        initial = spatial.initial_patch_size(configuration, AugmentationPlan())
        return configuration, *blobs(size, initial, channels)

    def test_gives_the_patch_size_and_types_of_training(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)
        for kind in (torch.uint8, torch.int32):
            new, marks = augment_batch(images, labels.to(kind), configuration, a_plan(), 0)
            assert new.shape == (4, 3, *patch) and new.dtype == torch.float32 and new.is_contiguous()
            assert marks.shape == (4, *patch) and marks.dtype == torch.int64 and marks.is_contiguous()

    def test_keeps_labels_on_the_structures_of_the_image(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)
        plan = a_plan(rotation=True, scaling=True, elastic=True, mirror=True, cutmix=True)
        agreement = []
        for iteration in range(10):
            new, marks = augment_batch(images, labels, configuration, plan, iteration)
            expected = (new[:, 0] > 0.3).long() + (new[:, 0] > 1)
            agreement.append((expected == marks).float().mean().item())
        assert min(agreement) > 0.9
        assert np.mean(agreement) > 0.96

    def test_labels_outside_of_the_sample_are_what_was_asked_for_and_all_others_the_same(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)
        plan = a_plan(rotation=True, scaling=True)
        beyond = 0
        for iteration in range(25):
            _, usual = augment_batch(images, labels, configuration, plan, iteration)
            _, plus = augment_batch(images, labels + 1, configuration, plan, iteration)
            _, marks = augment_batch(images, labels, configuration, plan, iteration, outside=4)
            assert torch.equal(marks, torch.where(plus == 0, 4, usual))
            beyond += int((plus == 0).sum())
        assert beyond > 0

    def test_follows_from_seed_iteration_and_rank_alone(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)

        def run(seed=1, iteration=5, rank=0):
            torch.manual_seed(np.random.default_rng().integers(1000))
            return augment_batch(images, labels, configuration, a_plan(seed=seed), iteration, rank)

        first, again = run(), run()
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        for changed in (run(seed=2), run(iteration=6), run(rank=1)):
            assert not torch.equal(first[0], changed[0])

    def test_leaves_its_arguments_alone(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)
        before = images.clone(), labels.clone()
        for iteration in range(5):
            augment_batch(images, labels, configuration, a_plan(), iteration)
        exact = spatial.crop_centre(images, patch), spatial.crop_centre(labels, patch)
        kept = exact[0].clone()
        augment_batch(*exact, configuration, a_plan(rotation=False, noise=True, gamma=True, mirror=True), 3)
        assert torch.equal(images, before[0]) and torch.equal(labels, before[1]) and torch.equal(exact[0], kept)

    def test_only_crops_with_every_step_off(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)
        expected = spatial.crop_centre(images, patch), spatial.crop_centre(labels, patch).long()
        for iteration in range(5):
            new, marks = augment_batch(images, labels, configuration, TrainingPlan(augmentation=OFF), iteration)
            assert torch.equal(new, expected[0]) and torch.equal(marks, expected[1])

    @pytest.mark.parametrize("step", [step for step in STEPS if step != "mistakes"])  # a cascade's: test_cascade.py
    def test_every_step_does_something_and_keeps_values_finite(self, patch, dimensions, step):
        configuration, images, labels = self.batch(patch, dimensions, 8)
        images = images * torch.tensor([1.0, 0.8, 1.3])[:, None, None, None]  # of some colour
        still = spatial.crop_centre(images, patch)
        results = [augment_batch(images, labels, configuration, only(step), i, rgb=(0, 1, 2))[0] for i in range(6)]
        assert any(not torch.equal(still, new) for new in results)
        assert all(torch.isfinite(new).all() for new in results)

    def test_survives_constant_images(self, patch, dimensions):
        configuration, images, labels = self.batch(patch, dimensions)
        for iteration in range(20):
            plan = a_plan(AugmentationPlan(**dict.fromkeys(STEPS, True)))
            new, _ = augment_batch(torch.zeros_like(images), labels, configuration, plan, iteration, rgb=(0, 1, 2))
            assert torch.isfinite(new).all()


def test_switching_a_step_off_leaves_the_others_as_they_were():
    configuration = a_configuration()
    images, labels = blobs(6, (12, 16, 14))
    with_noise = augment_batch(images, labels, configuration, a_plan(noise=True, mirror=True), 0)
    without = augment_batch(images, labels, configuration, a_plan(mirror=True), 0)
    assert torch.equal(with_noise[1], without[1])
    assert (with_noise[0] - without[0]).abs().max() < 0.6


@pytest.mark.parametrize(
    ("step", "share"),
    [
        ("rotation", 0.2),
        ("scaling", 0.2),
        ("noise", 0.1),
        ("blur", 0.2 * 0.5),
        ("brightness", 0.15),
        ("contrast", 0.15),
        ("low_resolution", 0.25 * 0.5),
        ("gamma", 1 - 0.9 * 0.7),
        ("mirror", 1 - 0.5**3),
        ("elastic", 0.2),
        ("bias_field", 0.15),
        ("motion", 0.1),
        ("ghosting", 0.1),
        ("stain", 0.3),
        ("colour", 0.3),
        ("cutmix", 0.2),
    ],
)
def test_each_step_changes_the_share_of_samples_that_the_recipe_names(step, share):
    configuration = a_configuration((6, 6, 6))
    images, labels = blobs(500, (6, 6, 6), channels=3 if step in ("stain", "colour") else 1)
    changed = []
    for iteration in range(4):
        new, _ = augment_batch(images, labels, configuration, only(step), iteration, rgb=(0, 1, 2))
        changed.append((new != images).flatten(1).any(1))
    found = torch.cat(changed).float().mean().item()
    assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2000))


class TestSpatial:
    def test_axes_that_may_not_be_mirrored_never_are(self):
        images, labels = blobs(64, (6, 8, 10))
        for axes in ((), (0,), (1, 2)):
            new, marks = images.clone(), labels.clone().long()
            spatial.mirror(new, marks, axes, generator())
            kinds = set()
            for sample in range(64):
                for flip in ([a for a in range(3) if code >> a & 1] for code in range(8)):
                    if torch.equal(new[sample, 0], images[sample, 0].flip(flip)):
                        assert torch.equal(marks[sample], labels[sample].flip(flip).long())
                        kinds.add(tuple(flip))
            assert len(kinds) == 2 ** len(axes)
            assert all(set(flip) <= set(axes) for flip in kinds)

    def test_a_quarter_turn_in_the_plane_is_exact(self):
        images, _ = blobs(1, (4, 9, 9))
        turned = spatial.resample(images, spatial.rotation((math.pi / 2, 0, 0), True)[None], (4, 9, 9), "bilinear")
        assert torch.allclose(turned, images.rot90(-1, (3, 4)), atol=1e-4)

    @pytest.mark.parametrize(("axis", "plane"), [(0, (3, 4)), (1, (2, 4)), (2, (2, 3))])
    def test_a_quarter_turn_about_each_axis_stays_in_its_plane(self, axis, plane):
        images, _ = blobs(1, (9, 9, 9))
        angles = [math.pi / 2 if i == axis else 0 for i in range(3)]
        turned = spatial.resample(images, spatial.rotation(angles, False)[None], (9, 9, 9), "bilinear")
        assert any(torch.allclose(turned, images.rot90(k, plane), atol=1e-4) for k in (1, -1))

    def test_sampling_is_scipys_affine_transform(self):
        images, _ = blobs(1, (15, 18, 13))
        patch, matrix = (8, 10, 6), 0.9 * spatial.rotation((0.3, -0.2, 0.4), False)
        offset = (np.array([15, 18, 13]) - 1) / 2 - matrix @ ((np.array(patch) - 1) / 2)
        expected = ndimage.affine_transform(images[0, 0].numpy(), matrix, offset, patch, order=1)
        found = spatial.resample(images, matrix[None], patch, "bilinear")
        assert np.allclose(found[0, 0], expected, atol=1e-4)

    def test_rotations_keep_lengths_and_handedness(self):
        for matrix in (spatial.rotation((0.3, -0.2, 0.4), False), spatial.rotation((0.3, 0, 0), True)):
            assert np.allclose(matrix @ matrix.T, np.eye(len(matrix)))
            assert np.linalg.det(matrix) == pytest.approx(1)

    def test_a_thin_patch_never_mixes_its_slices(self):
        configuration = a_configuration((4, 16, 14))
        slices = torch.arange(1.0, 5)[None, None, :, None, None].expand(200, 1, 4, 22, 22).clone()
        new, _ = augment_batch(
            slices, slices[:, 0].byte(), configuration, a_plan(rotation=True, scaling=True, low_resolution=True), 0
        )
        middle = new[:, 0, :, 6:10, 5:9]
        assert torch.allclose(middle, torch.arange(1.0, 5)[None, :, None, None].expand_as(middle), atol=1e-4)

    @pytest.mark.parametrize(
        ("patch", "dimensions", "degrees"),
        [((40, 56, 40), 3, 30), ((20, 320, 256), 3, 180), ((1, 56, 40), 2, 180), ((1, 64, 40), 2, 15)],
    )
    def test_the_largest_rotation_is_the_recipes(self, patch, dimensions, degrees):
        assert math.degrees(spatial.rotation_limit(a_configuration(patch, dimensions))) == pytest.approx(degrees)

    def test_the_scale_lies_between_its_limits_in_both_directions(self):
        """A ball's volume tells by how much it was scaled."""
        grid = np.stack(np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij"))
        ball = torch.from_numpy(np.clip(10.5 - np.sqrt((grid**2).sum(0)), 0, 1).astype(np.float32))
        images = ball.expand(60, 1, 48, 48, 48).contiguous()
        new, _ = augment_batch(
            images, images[:, 0].byte(), a_configuration((48, 48, 48)), a_plan(scaling=True, mirror=False), 1
        )
        scale = (ball.sum() / new.flatten(1).sum(1)) ** (1 / 3)
        assert 0.69 < scale.min() < 0.95 and 1.1 < scale.max() < 1.41


class TestIntensity:
    def changed(self, step, images, *arguments, seed=0):
        new = images.clone()
        step(new, generator(seed), *arguments)
        which = (new != images).flatten(2).any(2)
        return new, which

    def test_noise_is_zero_on_average_and_at_most_a_tenth(self):
        images = torch.zeros(400, 1, 8, 8, 8)
        new, which = self.changed(intensity.add_noise, images)
        sigma = new.flatten(2).std(2)[which]
        assert sigma.max() < 0.11 and sigma.mean().item() == pytest.approx(0.05, abs=0.02)
        assert new.mean().abs() < 0.001

    @pytest.mark.parametrize("n", [1, 2, 3, 7, 30])
    @pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0])
    def test_blur_is_scipys_gaussian_filter(self, n, sigma):
        signal = np.random.default_rng(0).normal(size=n)
        expected = ndimage.gaussian_filter1d(signal, sigma, mode="mirror", radius=4)
        assert np.allclose(intensity.blur_matrix(n, sigma) @ signal, expected)

    @pytest.mark.parametrize(("n", "m"), [(10, 10), (10, 5), (11, 6), (7, 4), (40, 33), (3, 1), (1, 1)])
    def test_low_resolution_is_torchs_nearest_exact_down_and_linear_up(self, n, m):
        signal = torch.randn(1, 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        down = F.interpolate(signal, m, mode="nearest-exact")
        expected = F.interpolate(down, n, mode="linear", align_corners=False)
        assert np.allclose(intensity.coarse_matrix(n, m) @ signal[0, 0].numpy(), expected[0, 0])

    def test_matrices_act_along_their_own_axes(self):
        volumes = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        matrices = [np.random.default_rng(n).normal(size=(2, n, n)) for n in (3, 4, 5)]
        expected = np.einsum("bij,bkl,bmn,bjln->bikm", *matrices, volumes.numpy())
        assert np.allclose(intensity.along_axes(volumes, matrices), expected, atol=1e-4)
        assert torch.equal(intensity.along_axes(volumes, [None] * 3), volumes)

    def test_blur_and_low_resolution_choose_channels_on_their_own(self):
        images, _ = blobs(200, (6, 6, 6), channels=2)
        for step, arguments in ((intensity.blur, ()), (intensity.lower_resolution, (False,))):
            _, which = self.changed(step, images, *arguments)
            assert (which[:, 0] & ~which[:, 1]).any() and (which[:, 1] & ~which[:, 0]).any()

    def test_brightness_factors_lie_on_both_sides_of_one(self):
        images = torch.ones(600, 2, 2, 2, 2)
        new, which = self.changed(intensity.change_brightness, images)
        factors = new[..., 0, 0, 0][which]
        assert factors.min() >= 0.75 and factors.max() <= 1.25
        assert (factors < 1).float().mean().item() == pytest.approx(0.5, abs=0.15)
        assert (new[:, 0] != new[:, 1]).any()

    def test_contrast_keeps_mean_side_and_range(self):
        images, _ = blobs(300, (6, 6, 6))
        new, which = self.changed(intensity.change_contrast, images)
        assert which.any()
        assert (new.amax((2, 3, 4)) <= images.amax((2, 3, 4)) + 1e-6).all()
        assert (new.amin((2, 3, 4)) >= images.amin((2, 3, 4)) - 1e-6).all()
        mean = images.mean((2, 3, 4), keepdim=True)
        assert (((new - mean) * (images - mean)) >= -1e-6).all()

    @pytest.mark.parametrize("step", [intensity.change_gamma, intensity.change_gamma_inverted])
    def test_gamma_keeps_mean_spread_and_order(self, step):
        images, _ = blobs(100, (6, 6, 6))
        new, which = self.changed(step, images)
        assert which.any()
        assert torch.allclose(new.mean((2, 3, 4)), images.mean((2, 3, 4)), atol=1e-4)
        assert torch.allclose(new.std((2, 3, 4)), images.std((2, 3, 4)), atol=1e-4)
        order = images.flatten(2).argsort(2)
        assert (new.flatten(2).gather(2, order).diff(dim=2) >= -1e-5).all()

    def test_inverted_gamma_is_gamma_of_the_negative(self):
        images, _ = blobs(40, (6, 6, 6))
        negative = -images
        new, again = images.clone(), negative.clone()
        intensity._change_gamma(new, generator(), 0.5, -1.0)
        intensity._change_gamma(again, generator(), 0.5, 1.0)
        assert torch.allclose(new, -again, atol=1e-5)
        assert not torch.equal(new, images)


class TestScanner:
    def changed(self, step, images, seed=0):
        new = images.clone()
        step(new, generator(seed))
        return new, (new != images).flatten(1).any(1)

    def test_a_bias_field_is_smooth_and_the_same_for_all_channels(self):
        images = torch.ones(200, 2, 12, 14, 16)
        images[:, :, 0, 0, 0] = 0  # the darkest voxel, from which brightness counts
        new, which = self.changed(scanner.add_bias_field, images)
        fields = new[which][:, :, 1:]
        assert torch.equal(fields[:, 0], fields[:, 1])
        assert (fields.diff(dim=-1).abs() / fields[..., 1:]).max() < 0.6
        assert 0.05 < fields.log().flatten(1).std(1).mean() < 1

    def test_motion_and_ghosts_keep_the_mean_and_the_place_of_structures(self):
        images, _ = blobs(200, (16, 18, 20), channels=2)
        for step in (scanner.blur_by_motion, scanner.add_ghosts):
            new, which = self.changed(step, images)
            assert which.any()
            old, now = images[which], new[which]
            assert torch.allclose(now.mean((2, 3, 4)), old.mean((2, 3, 4)), atol=1e-4)
            alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(old.numpy(), now.numpy(), strict=True)]
            assert np.median(alike) > 0.8
            assert min(alike) < 0.999

    def test_a_move_before_everything_but_the_centre_shifts_the_detail(self):
        signal = torch.zeros(1, 1, 1, 64)
        signal[..., 20] = 1
        moved = scanner._moved(signal, 2, np.array([0.0]), np.array([[0.0, 0.0, 3.0]]))
        assert moved.argmax() == 23

    def test_ghosts_lie_a_fraction_of_the_field_of_view_apart(self):
        images = torch.zeros(300, 1, 1, 48, 48)
        images[..., 24, 24] = 1
        new, which = self.changed(scanner.add_ghosts, images)
        for one in new[which][:, 0, 0]:
            rows, columns = np.nonzero(one.abs().numpy() > 0.01)
            assert (rows == 24).all() or (columns == 24).all()
            assert len(rows) > 1

    def test_lines_are_not_read_across_a_few_slices(self):
        images = torch.zeros(1, 1, 4, 40, 40)
        assert {scanner._long_axis(images, generator(seed)) for seed in range(20)} == {1, 2}


class TestDeform:
    def test_bends_image_and_labels_alike_and_never_folds(self):
        images, labels = blobs(60, (20, 24, 22))
        new, marks = images.clone(), labels.long()
        deform(new, marks, False, generator())
        which = (new != images).flatten(1).any(1)
        assert 5 < which.sum() < 25
        expected = (new[:, 0] > 0.3).long() + (new[:, 0] > 1)
        assert (expected == marks)[which].float().mean() > 0.95
        place = torch.arange(22.0).expand(60, 1, 20, 24, 22).clone()
        deform(place, marks, False, generator())
        assert (place[which].diff(dim=-1) > -0.05).all()

    def test_a_thin_patch_is_bent_within_its_slices(self):
        slices = torch.arange(1.0, 5)[None, None, :, None, None].expand(60, 1, 4, 22, 22).clone()
        marks = slices[:, 0].long()
        before = slices.clone()
        deform(slices, marks, True, generator())
        assert torch.allclose(slices, before, atol=1e-4) and torch.equal(marks, before[:, 0].long())

    def test_a_box_comes_from_another_patch_and_the_same_place_with_its_labels(self):
        images = torch.arange(40.0)[:, None, None, None, None] + torch.zeros(40, 1, 10, 10, 10)
        images += torch.arange(1000.0).reshape(10, 10, 10) / 1e4
        marks = images[:, 0].floor().long()
        new, labels = images.clone(), marks.clone()
        exchange_boxes(new, labels, generator())
        assert torch.equal(labels, new[:, 0].floor().long())
        assert torch.allclose(new.frac(), images.frac(), atol=1e-4)
        foreign = [(labels[i] != i).sum().item() for i in range(40)]
        assert any(foreign) and all(n == 0 or 2**3 <= n <= 6**3 for n in foreign)
        alone = images[:1].clone()
        exchange_boxes(alone, marks[:1].clone(), generator())
        assert torch.equal(alone, images[:1])


class TestColour:
    def test_colour_channels_are_found_by_name(self):
        assert colour_channels(["Red", "green", "BLUE"]) == (0, 1, 2)
        assert colour_channels(["blue", "depth", "red", "green"]) == (2, 3, 0)
        assert colour_channels(["CT"]) is None and colour_channels(["red", "green"]) is None

    def test_more_of_a_stain_is_what_the_law_of_beer_and_lambert_says(self):
        """With shifts and all but one factor left out, the densities change along one stain."""
        random = np.random.default_rng(0)
        density = random.uniform(0.1, 1, (40, 3, 1, 8, 8)) @ np.ones((8, 8)) / 8
        images = torch.from_numpy(np.exp(-density)).float()
        new = images.clone()
        change_stain(new, (0, 1, 2), generator())
        which = (new != images).flatten(1).any(1)
        assert which.any() and torch.isfinite(new).all()
        assert (new[which] - images[which]).abs().max() < 0.5
        assert (new[which].amax((1, 2, 3, 4)) <= images[which].amax((1, 2, 3, 4)) + 1e-5).all()

    def test_other_channels_than_the_colours_stay_as_they_are(self):
        images, _ = blobs(60, (1, 12, 12), channels=4)
        images *= torch.tensor([1.0, 0.7, 1.2, 1.0])[:, None, None, None]
        for step in (change_stain, change_colour):
            new = images.clone()
            step(new, (3, 0, 1), generator())
            assert torch.equal(new[:, 2], images[:, 2])
            assert (new != images).flatten(2).any(2)[:, [0, 1, 3]].any()


@pytest.mark.gpu
def test_the_gpu_uses_the_same_parameters_as_the_cpu():
    configuration = a_configuration((24, 24, 24))
    images, labels = blobs(4, spatial.initial_patch_size(configuration, AugmentationPlan()))
    plan = a_plan(AugmentationPlan(noise=False))
    for iteration in range(10):
        here = augment_batch(images, labels, configuration, plan, iteration)
        there = augment_batch(images.cuda(), labels.cuda(), configuration, plan, iteration)
        assert torch.allclose(here[0], there[0].cpu(), atol=1e-3)
        assert (here[1] == there[1].cpu()).float().mean() > 0.999
