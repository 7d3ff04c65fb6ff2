import pytest

from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp, epsilon_tight
from medseg.federation.privacy.certificate import Certificate, SiteAccount, certify


def account(site, patients, steps=20):
    return SiteAccount(
        site=site,
        patients=patients,
        delta=1 / (10 * patients),
        mechanism=Mechanism(sample_rate=0.25, noise_multiplier=3.0, steps=steps),
        clip=1.0,
        epsilon_ever=5.0,
        budget=8.0,
    )


@pytest.fixture(scope="module")
def accounts():
    return [account("north", 30), account("south", 60)]


def test_the_certificate_says_unit_neighbours_numbers_and_what_lies_outside(accounts, tmp_path):
    certificate = certify("run-1", "patient", accounts, overlapping=False, outside=["the plan"])
    text = certificate.to_markdown()
    for needed in ("one patient of one hospital", "one patient added or removed", "delta = 0.0033", "| north | 30 |"):
        assert needed in text
    for needed in ("| 0.25 | 3 | 1 | 20 |", "ChaCha20", "number of patients", "- the plan\n", "| 8 |"):
        assert needed in text
    certificate.save_in(tmp_path)
    assert Certificate.load(tmp_path / "privacy.json") == certificate
    assert (tmp_path / "privacy.md").read_text() == text


def test_hospitals_with_other_patients_have_the_largest_epsilon_and_those_that_share_some_the_sum(accounts):
    values = [epsilon_rdp([a.mechanism], a.delta) for a in accounts]
    tight = [epsilon_tight([a.mechanism], a.delta) for a in accounts]
    apart, shared = (certify("r", "patient", accounts, overlapping=o) for o in (False, True))
    assert apart.epsilon == max(values) and apart.delta == 1 / 300 and apart.epsilon_tight == max(tight)
    assert shared.epsilon == pytest.approx(sum(values)) and shared.delta == pytest.approx(1 / 300 + 1 / 600)
    assert shared.epsilon_tight == pytest.approx(sum(tight)) and shared.epsilon_ever == 10
    assert "sum over" in shared.to_markdown() and "largest of" in apart.to_markdown()
    assert apart.epsilon_tight < apart.epsilon


def test_a_number_that_means_nothing_has_no_tight_value(accounts):
    loose = accounts[0].model_copy(update={"mechanism": Mechanism(sample_rate=0.5, noise_multiplier=0.3, steps=500)})
    certificate = certify("r", "patient", [loose, accounts[1]], overlapping=False)
    assert certificate.epsilon > 500 and certificate.epsilon_tight is None
    assert "none (tight)" in certificate.to_markdown()


def test_client_level_says_that_single_patients_and_the_server_are_not_covered(accounts):
    text = certify("r", "client", accounts, overlapping=False).to_markdown()
    assert "one hospital with all its patients" in text and "server sees" in text and "single patients" in text
