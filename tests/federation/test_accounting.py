import math
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import logsumexp

from medseg.errors import SettingsError
from medseg.federation.privacy.accounting import (
    Mechanism,
    delta_gaussian,
    epsilon_gaussian,
    epsilon_rdp,
    epsilon_tight,
    largest_delta,
    noise_for,
)
from medseg.federation.privacy.settings import PrivacySettings

DELTA = 1e-3


def steps(sigma, rate, count):
    return Mechanism(sample_rate=rate, noise_multiplier=sigma, steps=count)


def rdp_by_hand(order, sigma, rate, count):
    """Mironov et al. 2019, section 3.3, whole orders."""
    return (
        count
        / (order - 1)
        * float(
            logsumexp(
                [
                    math.log(math.comb(order, k))
                    + (order - k) * math.log(1 - rate)
                    + k * math.log(rate)
                    + (k * k - k) / (2 * sigma**2)
                    for k in range(order + 1)
                ]
            )
        )
    )


def epsilon_by_hand(sigma, rate, count):
    """Balle et al. 2020, theorem 21."""
    return min(
        rdp_by_hand(a, sigma, rate, count) + math.log1p(-1 / a) - (math.log(DELTA) + math.log(a)) / (a - 1)
        for a in range(2, 64)
    )


@pytest.mark.parametrize(("sigma", "rate", "count"), [(6.0, 0.3, 40), (2.0, 0.25, 50), (4.0, 0.5, 100)])
def test_rdp_agrees_with_the_sum_written_out_for_whole_orders(sigma, rate, count):
    ours, by_hand = epsilon_rdp([steps(sigma, rate, count)], DELTA), epsilon_by_hand(sigma, rate, count)
    assert ours <= by_hand * (1 + 1e-9)  # ours may also choose orders between
    assert ours == pytest.approx(by_hand, rel=0.03)


def test_without_sampling_rdp_is_the_closed_form_of_the_gaussian():
    orders = np.concatenate([np.linspace(1.1, 10.9, 99), np.arange(12, 64)])
    rdp = 20 * orders / (2 * 5.0**2)
    closed = (rdp + np.log1p(-1 / orders) - (np.log(DELTA) + np.log(orders)) / (orders - 1)).min()
    assert epsilon_rdp([steps(5.0, 1.0, 20)], DELTA) == pytest.approx(closed, rel=1e-6)


def test_without_sampling_the_tight_value_is_exact_and_below_rdp():
    tight = epsilon_tight([steps(5.0, 1.0, 20)], DELTA)
    assert tight is not None and tight < epsilon_rdp([steps(5.0, 1.0, 20)], DELTA)
    # Twenty steps are one with noise 5 / sqrt(20): integrate what its definition says.
    sigma, epsilon = 5.0 / math.sqrt(20), tight
    x = np.linspace(-12, 14, 400_001)
    density = np.exp(-((x - 1 / sigma) ** 2) / 2) - np.exp(epsilon - x**2 / 2)
    assert np.trapezoid(np.maximum(density, 0), x) / math.sqrt(2 * math.pi) == pytest.approx(DELTA, rel=1e-4)


def test_prv_lies_between_the_exact_value_of_one_step_and_rdp():
    sigma, rate = 1.0, 0.2
    x = np.linspace(-14, 15, 400_001)
    plain, mixed = np.exp(-(x**2) / 2), (1 - rate) * np.exp(-(x**2) / 2) + rate * np.exp(-((x - 1) ** 2) / 2)

    def delta(epsilon):
        worse = max(
            np.trapezoid(np.maximum(a - math.exp(epsilon) * b, 0), x) for a, b in [(plain, mixed), (mixed, plain)]
        )
        return worse / math.sqrt(2 * math.pi)

    found = epsilon_tight([steps(sigma, rate, 1)], DELTA)
    assert found is not None and found < epsilon_rdp([steps(sigma, rate, 1)], DELTA)
    assert delta(found) <= DELTA < delta(found - 0.03)


def test_nothing_done_costs_nothing():
    for history in ([], [steps(1.0, 0.5, 0)]):
        assert epsilon_rdp(history, DELTA) == epsilon_tight(history, DELTA) == 0


def test_rounds_add_up_whether_or_not_they_are_counted_together():
    parts = [steps(2.0, 0.25, 10)] * 5
    assert epsilon_rdp(parts, DELTA) == epsilon_rdp([steps(2.0, 0.25, 50)], DELTA)
    spent = [epsilon_rdp(parts[:n], DELTA) for n in range(6)]
    assert all(a < b for a, b in pairwise(spent))


def test_a_hopeless_setting_is_said_to_be_so_at_once():
    assert epsilon_rdp([steps(0.2, 0.5, 500)], DELTA) > 1000
    assert epsilon_tight([steps(0.2, 0.5, 500)], DELTA) is None


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_noise_for_a_target_meets_it_and_hardly_more(epsilon):
    sigma = noise_for(epsilon, DELTA, 0.25, 50)
    spent = epsilon_rdp([steps(sigma, 0.25, 50)], DELTA)
    assert 0.98 * epsilon <= spent <= epsilon


def test_a_target_that_no_noise_meets_is_named():
    with pytest.raises(SettingsError, match="No noise keeps 50 steps"):
        noise_for(1e-9, 1e-9, 0.25, 50)


@pytest.mark.parametrize("sigma", [0.01, 1e6])
@pytest.mark.parametrize("rate", [1e-4, 0.5, 1.0])
def test_every_noise_that_is_allowed_has_a_finite_epsilon(sigma, rate):
    assert math.isfinite(epsilon_rdp([steps(sigma, rate, 1000)], DELTA))


@pytest.mark.parametrize("sigma", [0.0, 1e-9, math.nan, math.inf])
def test_noise_that_is_none_is_refused(sigma):
    with pytest.raises(ValidationError):
        steps(sigma, 0.5, 1)
    with pytest.raises(ValidationError):
        PrivacySettings(mode="patient", noise_multiplier=sigma)


def test_the_exact_gaussian_inverts_itself():
    assert delta_gaussian(3.0, epsilon_gaussian(3.0, DELTA)) == pytest.approx(DELTA, rel=1e-6)
    assert epsilon_gaussian(1000.0, DELTA) == 0


def test_delta_is_a_tenth_of_one_over_the_patients():
    assert largest_delta(50) == 1 / 500
