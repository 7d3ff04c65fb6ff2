"""Whether an image is like those that a model was checked on."""

import numpy as np
import pytest
import torch

from medseg.images.volume import Volume
from medseg.networks.build import build_network
from medseg.preprocessing.prepare import prepare_image
from medseg.uncertainty.familiarity import Familiarity, Seen, judge_image, learn_familiarity, mahalanobis
from medseg.uncertainty.image_profile import SIZE, ImageProfile, profile_of
from medseg.uncertainty.network_features import features_of

from tiny import tiny_plan

PLAN = tiny_plan()
CONFIGURATION = PLAN.configurations["3d_fullres"]


def drawn(seed, spacing=1.0, noise=10.0, cut=0, flip=False):
    """A bright ball at one side of noise, and a dark box at the other."""
    random = np.random.default_rng(seed)
    z, y, x = np.ogrid[:20, :24, :16]
    centre = 7 + random.uniform(-1, 1, 3)
    ball = ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) < 16
    image = random.normal(100, noise, (20, 24, 16)) + 60 * ball
    image[14:18, 15:21, 4:12] -= 60
    image = image[cut:, ::-1] if flip else image[cut:]
    return Volume(image[None].astype(np.float32), np.diag([spacing, 1.0, 1.0, 1.0]) @ np.eye(4)[[2, 1, 0, 3]])


def profile(volume):
    return profile_of(*prepare_image(volume, PLAN, CONFIGURATION), ["MR"])


@pytest.fixture(scope="module")
def learned():
    seen = [Seen(0, profile(drawn(seed)), None, None) for seed in range(30)]
    return learn_familiarity(seen, "3d_fullres", "abc")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"spacing": 3.0}, "spacing along x, mm"),
        ({"cut": 8}, "extent along z, mm"),
        ({"noise": 40.0}, "level of MR"),
        ({"flip": True}, "flipping"),
    ],
)
def test_an_image_that_lies_or_looks_otherwise_is_called_unusual_and_says_why(learned, changed, named):
    usual, found = (judge_image(learned, profile(drawn(99, **more)), {}) for more in ({}, changed))
    assert not usual.is_unusual
    assert usual.warning is None
    assert found.is_unusual
    assert any(named in reason for reason in found.reasons)
    assert "30 held-out cases" in found.warning


def seen_features(random, mean=0.0):
    blank = ImageProfile({"spacing along z, mm": 1.0}, np.zeros((1, SIZE, SIZE, SIZE)))
    return Seen(int(random.integers(2)), blank, "deep", random.normal(mean, 1, 40))


def test_of_usual_images_no_more_are_warned_of_than_was_asked_for():
    random = np.random.default_rng(0)
    called = []
    for _ in range(20):
        known = learn_familiarity([seen_features(random) for _ in range(40)], "x", "y")
        new = [seen_features(random) for _ in range(20)]
        called += [judge_image(known, one.profile, {one.fold: one.features}, 0.1).is_unusual for one in new]
    assert np.mean(called) == pytest.approx(0.1, abs=0.05)  # 400 images, 20 limits


def test_features_that_a_network_never_gave_are_found_by_the_network_of_the_same_fold():
    random = np.random.default_rng(1)
    known = learn_familiarity([seen_features(random) for _ in range(40)], "x", "y")
    assert {one.fold for one in known.features} == {0, 1}
    strange = seen_features(random, mean=2.0)
    found = judge_image(known, strange.profile, {strange.fold: strange.features})
    assert found.is_unusual
    assert "times as far" in found.reasons[0]
    assert not judge_image(known, strange.profile, {7: strange.features}).is_unusual  # nothing is known of fold 7


def test_with_few_cases_the_rate_of_false_alarms_is_the_least_they_allow():
    random = np.random.default_rng(2)
    known = learn_familiarity([seen_features(random) for _ in range(9)], "x", "y")
    found = judge_image(known, seen_features(random).profile, {})
    assert found.false_alarms == pytest.approx(0.1)
    # The largest of nine is exceeded by more than this share of new ones in one of twenty draws.
    assert found.false_alarms_high == pytest.approx(1 - 0.05 ** (1 / 9))
    assert learn_familiarity([seen_features(random) for _ in range(4)], "x", "y") is None


def test_mahalanobis_distance_is_that_of_the_full_covariance_where_nothing_is_cut_off():
    random = np.random.default_rng(3)
    rows = random.normal(size=(200, 3)) @ np.diag([5.0, 2.0, 1.0])
    blank = ImageProfile({"spacing along z, mm": 1.0}, np.zeros((1, SIZE, SIZE, SIZE)))
    known = learn_familiarity([Seen(0, blank, "deep", row) for row in rows], "x", "y")
    (statistics,) = known.features
    new = np.array([4.0, -3.0, 1.0])
    apart = new - rows.mean(axis=0)
    wanted = np.sqrt(apart @ np.linalg.inv(np.cov(rows.T)) @ apart / 3)
    assert mahalanobis(statistics, new) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_pooled_at_the_coarsest_layer_and_leave_no_hook(dimensions):
    configuration = next(iter(tiny_plan(dimensions).configurations.values()))
    torch.manual_seed(0)
    network = build_network(configuration.network, dimensions, 1, 3).eval()
    image = np.random.default_rng(0).normal(size=(1, 20, 24, 16)).astype(np.float32)
    layer, found = features_of(network, image, configuration.patch_size)
    assert found.shape == (16,)  # mean and deviation of 8 channels
    assert "encoder" in layer
    again = features_of(network, image, configuration.patch_size, layer)[1]
    np.testing.assert_array_equal(found, again)
    assert not any(module._forward_hooks for module in network.modules())


def test_the_document_holds_no_case_by_itself_and_can_be_read_back(learned, tmp_path):
    learned.save(tmp_path / "familiarity.json")
    assert Familiarity.load(tmp_path / "familiarity.json") == learned
    assert list(learned.scores) == sorted(learned.scores)
    assert len(learned.average) == SIZE**3
