import numpy as np
import pytest

from medseg.errors import MedsegError, SiteError
from medseg.federation.privacy.client_level import clipped_update, private_mean, warning_below
from medseg.federation.privacy.membership import membership_auc
from medseg.federation.privacy.noise import SystemNoise


def norm(update):
    return np.sqrt(sum((array**2).sum() for array in update.values()))


def test_an_update_is_clipped_over_all_its_arrays_those_without_an_axis_too():
    update = {"a": np.full((3, 4), 100, np.float32), "b": np.float32(100) * np.ones((), np.float32)}
    clipped = clipped_update(update, 1.0)
    assert norm(clipped) == pytest.approx(1.0)
    assert clipped["b"] == pytest.approx(1 / np.sqrt(13))


def test_a_small_update_and_one_of_zeros_stay_as_they_are():
    for value in (0.0, 0.01):
        update = {"a": np.full(4, value, np.float32)}
        np.testing.assert_array_equal(clipped_update(update, 1.0)["a"], update["a"])


def test_an_update_whose_square_is_not_finite_is_clipped_all_the_same():
    assert norm(clipped_update({"a": np.full(4, 1e200)}, 1.0)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (np.array([np.nan, 1]), "not-finite"),
        (np.array([np.inf]), "not-finite"),
        (np.array(np.nan), "not-finite"),
        (np.array([1, 2]), "bad-update-type"),
        (np.array(3), "bad-update-type"),
    ],
)
def test_what_clipping_would_not_bound_is_refused(bad, code):
    with pytest.raises(SiteError, match=code):
        private_mean([{"a": bad}], 1.0, 1.0, 1, SystemNoise())


def test_without_noise_the_mean_has_equal_weights_and_the_fixed_number_of_sites():
    updates = [{"a": np.full(4, value, np.float32)} for value in (0.1, 0.3)]
    np.testing.assert_allclose(private_mean(updates, 10.0, 0.0, 4, SystemNoise())["a"], np.full(4, 0.1), rtol=1e-6)


def test_the_noise_of_the_mean_has_its_standard_deviation():
    found = private_mean([{"a": np.zeros(100_000)}] * 3, clip=2.0, noise_multiplier=1.5, sites=3, noise=SystemNoise())
    assert found["a"].std() == pytest.approx(1.5 * 2 / 3, rel=0.02)


def test_replies_with_other_names_are_refused():
    with pytest.raises(SiteError, match="bad-update-names"):
        private_mean([{"a": np.zeros(2)}, {"b": np.zeros(2)}], 1.0, 1.0, 2, SystemNoise())


def test_a_few_hospitals_are_warned_with_the_arithmetic():
    warning = warning_below(8, 1_000_000, 5.0)
    assert warning is not None and "625 times" in warning
    assert warning_below(100, 1_000_000, 5.0) is None


def test_losses_that_do_not_differ_give_no_one_away_and_smaller_ones_do():
    random = np.random.default_rng(0)
    same = membership_auc(random.normal(size=60), random.normal(size=60))
    assert same.low < 0.5 < same.high
    apart = membership_auc(random.normal(-1, 1, 60), random.normal(1, 1, 60))
    assert apart.low > 0.8 and apart.auc == pytest.approx(0.92, abs=0.06)  # Phi(sqrt 2) = 0.921
    assert membership_auc([0.0, 0.0], [1.0]).auc == 1
    assert membership_auc([1.0], [1.0]).auc == 0.5


def test_losses_that_are_no_numbers_are_refused():
    for members, strangers in ([], [1.0]), ([1.0], []), ([float("nan")], [1.0]):
        with pytest.raises(MedsegError, match="finite losses"):
            membership_auc(members, strangers)
