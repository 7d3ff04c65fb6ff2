import numpy as np
import pytest

from medseg.errors import SiteError
from medseg.federation.secure_sum import Context, MaskingSite, new_keys, to_fixed_point, unmasked_sum

NAMES = ("north", "south", "west")


@pytest.fixture(scope="module")
def keys():
    return {name: new_keys() for name in (*NAMES, "east")}


@pytest.fixture
def sites(keys, tmp_path):
    public = {name: pair[1] for name, pair in keys.items()}
    return {name: MaskingSite(name, pair[0], public, tmp_path / name) for name, pair in keys.items()}


def context(attempt=0, participants=NAMES, round_number=1, run="run-1"):
    return Context(run, round_number, attempt, participants)


def vectors():
    random = np.random.default_rng(0)
    return {
        name: {"a": random.normal(size=(40, 25)).astype(np.float32), "b": np.float32(random.normal(size=()))}
        for name in NAMES
    }


def test_masks_cancel_exactly_and_the_sum_is_exact_to_the_fixed_point(sites):
    plain = {name: {k: np.asarray(v) for k, v in arrays.items()} for name, arrays in vectors().items()}
    masked = {name: sites[name].mask(plain[name], context()) for name in NAMES}
    summed = unmasked_sum(masked, NAMES)
    for key in ("a", "b"):
        encoded = sum(to_fixed_point(plain[name][key], 3).astype(np.int64) for name in NAMES).astype(np.int32)
        np.testing.assert_array_equal(summed[key], encoded / 2**20)
        exact = np.sum([plain[name][key].astype(np.float64) for name in NAMES], axis=0)
        assert np.abs(summed[key] - exact).max() <= 3 / 2**21
        assert summed[key].shape == exact.shape


def test_one_masked_vector_looks_uniform_and_says_nothing_of_what_is_in_it(sites):
    from scipy.stats import kstest

    masked = sites["north"].mask({"a": np.zeros(50_000)}, context())["a"]
    assert kstest(masked / 2**32, "uniform").pvalue > 1e-6
    bits = np.unpackbits(masked.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 6 * 0.5 / (32 * 50_000) ** 0.5


def test_two_arrays_of_one_message_have_masks_of_their_own(sites):
    masked = sites["north"].mask({"a": np.zeros(1000), "b": np.zeros(1000)}, context())
    assert (masked["a"] == masked["b"]).mean() < 0.01


def test_a_context_that_was_answered_is_refused_also_after_a_restart(sites, keys, tmp_path):
    sites["north"].mask({"a": np.zeros(3)}, context())
    again = MaskingSite("north", keys["north"][0], {n: k[1] for n, k in keys.items()}, tmp_path / "north")
    for site in (sites["north"], again):
        for participants in (NAMES, ("north", "south", "east")):
            with pytest.raises(SiteError, match="secure-sum-replayed"):
                site.mask({"a": np.ones(3)}, context(participants=participants))


def test_after_a_drop_out_the_survivors_sum_under_a_new_attempt(sites):
    four = (*NAMES, "east")
    first = {name: sites[name].mask({"a": np.full(5, 1.0)}, context(0, four)) for name in NAMES}
    with pytest.raises(SiteError, match="secure-sum-incomplete"):
        unmasked_sum(first, four)
    assert np.abs(unmasked_sum(first, NAMES)["a"]).min() > 3  # the masks of the lost one stay: a sum of noise
    again = {name: sites[name].mask({"a": np.full(5, 1.0)}, context(1)) for name in NAMES}
    np.testing.assert_array_equal(unmasked_sum(again, NAMES)["a"], np.full(5, 3.0))
    assert (first["north"]["a"] != again["north"]["a"]).all()


@pytest.mark.parametrize(
    ("participants", "code"),
    [
        (("north", "south"), "too-few"),
        (("south", "west", "east"), "unknown-site"),
        (("north", "south", "nobody"), "unknown-site"),
        (("north", "south", "south", "west"), "unknown-site"),
    ],
)
def test_a_site_masks_only_among_enough_sites_whose_keys_it_has_pinned(sites, participants, code):
    with pytest.raises(SiteError, match=f"secure-sum-{code}"):
        sites["north"].mask({"a": np.zeros(3)}, context(participants=participants))


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, "not-finite"), (np.inf, "not-finite"), (700.0, "secure-sum-too-large")]
)
def test_numbers_that_do_not_fit_are_refused_before_the_context_is_used(sites, value, code):
    with pytest.raises(SiteError, match=code):
        sites["north"].mask({"a": np.array([0.0, value])}, context())
    sites["north"].mask({"a": np.zeros(2)}, context())


def test_keys_of_another_kind_are_refused(keys, tmp_path):
    for private, public in [(b"rubbish", keys["south"][1]), (keys["north"][0], b"rubbish")]:
        with pytest.raises(SiteError, match="secure-sum-bad-key"):
            MaskingSite("north", private, {"south": public}, tmp_path)


def test_replies_of_other_shapes_or_types_are_refused(sites):
    masked = {name: sites[name].mask({"a": np.zeros(3)}, context()) for name in NAMES}
    for wrong in (np.zeros(4, np.uint32), np.zeros(3, np.float32)):
        with pytest.raises(SiteError, match="bad-update"):
            unmasked_sum({**masked, "west": {"a": wrong}}, NAMES)
