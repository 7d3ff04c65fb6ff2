"""Whole rounds under each protection, on three tiny hospitals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.cli import main
from medseg.errors import SettingsError
from medseg.federation.arms import Arms, compare_arms
from medseg.federation.coordinator import final_weights
from medseg.federation.in_process import InProcess
from medseg.federation.leakage import attack_run
from medseg.federation.messages import Request
from medseg.federation.privacy.certificate import Certificate
from medseg.federation.privacy.ledger import LEDGER, Ledger
from medseg.federation.privacy.settings import PrivacySettings
from medseg.federation.rounds import run_rounds
from medseg.federation.run_settings import RunSettings
from medseg.federation.run_state import RoundPolicy
from medseg.federation.secure_site import make_keys, pin_keys
from medseg.federation.site import Site
from medseg.federation.site_file import write_site_file

from .conftest import begun
from tiny import TABLE, tiny_plan

PATIENT = PrivacySettings(mode="patient", epsilon=8.0, patches=1)


def with_keys(sites: list[Site]) -> list[Site]:
    """The sites, each with a key of its own and those of the others pinned."""
    public = {site.name: make_keys(site.folder) for site in sites}
    for site in sites:
        pin_keys(site.folder, public)
    return sites


def weights_of(folder: Path) -> np.ndarray:
    return np.concatenate([array.ravel() for _, array in sorted(final_weights(folder).items())])


class Spy(InProcess):
    """Sites in this process, with all that went over the wire."""

    def __init__(self, members, lost=()) -> None:
        super().__init__(members)
        self.seen, self.lost = [], dict(lost)

    def exchange(self, requests, deadline_s, enough=None):
        replies = super().exchange(requests, deadline_s, enough)
        for name in list(replies):
            if requests[name].action == "train" and self.lost.get(name, 0) > 0:
                self.lost[name] -= 1
                del replies[name]
        self.seen += [(requests[name], reply) for name, reply in replies.items() if reply.action == "train"]
        return replies


def test_patient_privacy_ends_with_a_certificate_and_a_ledger_at_every_site(sites: list[Site], tmp_path: Path) -> None:
    transport = Spy(sites)
    begun(transport, tmp_path / "R", privacy=PATIENT)
    state = run_rounds(transport, tmp_path / "R")
    assert state.status == "completed"
    certificate = Certificate.load(tmp_path / "R" / "privacy.json")
    assert certificate.mode == "patient" and 7.8 <= certificate.epsilon <= 8.0
    assert {s.account.site: s.account.mechanism.steps for s in certificate.sites} == dict.fromkeys(state.sites, 2)
    for site in sites:
        entries = Ledger(site.folder / LEDGER).entries()
        assert [entry.charge.round for entry in entries] == [1, 2]
        assert entries[-1].epsilon == certificate.epsilon_ever <= site.policy.epsilon_budget
    assert all(reply.header["loss"] is None for _, reply in transport.seen)
    text = (tmp_path / "R" / "privacy.md").read_text()
    assert "one patient of one hospital" in text and "times as long as the longest sum of gradients" in text


def test_a_round_that_would_pass_a_sites_budget_is_refused_before_it_trains(sites: list[Site], tmp_path: Path) -> None:
    poor = replace(sites[1], policy=sites[1].policy.model_copy(update={"epsilon_budget": 6.0}))
    begun(InProcess([sites[0], poor, sites[2]]), tmp_path / "R", privacy=PATIENT)
    state = run_rounds(InProcess([sites[0], poor, sites[2]]), tmp_path / "R")
    assert (state.status, state.round) == ("paused", 1)
    assert len(Ledger(poor.folder / LEDGER).entries()) == 1
    assert Certificate.load(tmp_path / "R" / "privacy.json").sites[0].account.mechanism.steps == 1


def test_an_answer_sent_again_costs_nothing(sites: list[Site], tmp_path: Path) -> None:
    transport = Spy(sites, lost={"west": 1})
    begun(transport, tmp_path / "R", privacy=PATIENT, rounds=1, policy=RoundPolicy(retries=1, deadline=1, grace=0))
    assert run_rounds(transport, tmp_path / "R").status == "completed"
    assert len(Ledger(sites[2].folder / LEDGER).entries()) == 1


def test_private_training_moves_the_weights_and_never_the_same_way_twice(sites: list[Site], tmp_path: Path) -> None:
    found = []
    for name in ("A", "B"):
        twice = [replace(site, folder=tmp_path / name / site.name) for site in sites]
        begun(InProcess(twice), tmp_path / name / "R", privacy=PATIENT, rounds=1)
        run_rounds(InProcess(twice), tmp_path / name / "R")
        found.append(weights_of(tmp_path / name / "R"))
    # AdamW's first step has one length and the gradient's sign: by chance half of them agree.
    assert np.isfinite(found).all() and (found[0] != found[1]).mean() > 0.4


def test_only_what_is_chosen_is_trained(sites: list[Site], tmp_path: Path) -> None:
    privacy = PATIENT.model_copy(update={"trained": "norm_head"})
    begun(InProcess(sites), tmp_path / "R", privacy=privacy, rounds=1)
    before = final_weights(tmp_path / "R")
    run_rounds(InProcess(sites), tmp_path / "R")
    moved = {name for name, array in final_weights(tmp_path / "R").items() if (array != before[name]).any()}
    assert moved and all(".norm." in name or ".heads." in name for name in moved)


def test_masked_changes_sum_to_what_open_ones_do_and_no_message_holds_a_change(
    sites: list[Site], tmp_path: Path
) -> None:
    begun(InProcess(sites), tmp_path / "open")
    run_rounds(InProcess(sites), tmp_path / "open")
    fresh = with_keys([replace(site, folder=tmp_path / "again" / site.name) for site in sites])
    spy = Spy(fresh)
    begun(spy, tmp_path / "masked", secure_aggregation=True)
    state = run_rounds(spy, tmp_path / "masked")
    assert state.status == "completed" and [record.attempts for record in state.history] == [1, 1]
    # Two rounds: the second begins where the first ended, within the fixed point.
    np.testing.assert_allclose(weights_of(tmp_path / "masked"), weights_of(tmp_path / "open"), atol=1e-3)
    for _, reply in spy.seen:
        assert all(name.startswith("masked.") and a.dtype == np.uint32 for name, a in reply.arrays.items())
        numbers = np.concatenate([array.ravel() for array in reply.arrays.values()])
        assert abs(numbers.mean() / 2**32 - 0.5) < 6 / (12 * numbers.size) ** 0.5


def test_a_site_that_drops_out_voids_the_sum_and_the_others_begin_a_new_one(sites: list[Site], tmp_path: Path) -> None:
    spy = Spy(with_keys(sites), lost={"west": 1})
    policy = RoundPolicy(retries=2, deadline=1, grace=0)
    begun(spy, tmp_path / "R", secure_aggregation=True, rounds=1, policy=policy)
    state = run_rounds(spy, tmp_path / "R")
    assert state.status == "completed" and state.history[0].attempts == 2
    contexts = {(r.header["secure_sum"]["attempt"], tuple(r.header["secure_sum"]["participants"])) for r, _ in spy.seen}
    assert contexts == {(0, state.sites), (1, state.sites)}


def test_too_few_survivors_pause_the_run_instead_of_unmasking_two(sites: list[Site], tmp_path: Path) -> None:
    spy = Spy(with_keys(sites), lost={"west": 9})
    policy = RoundPolicy(allow_missing=True, min_sites=2, retries=1, deadline=1, grace=0)
    begun(spy, tmp_path / "R", secure_aggregation=True, rounds=1, policy=policy)
    state = run_rounds(spy, tmp_path / "R")
    assert state.status == "paused" and state.round == 0 and "west (no answer)" in state.reason


def test_a_coordinator_killed_in_a_masked_round_goes_on(sites: list[Site], tmp_path: Path) -> None:
    spy = Spy(with_keys(sites), lost={"west": 9})
    begun(spy, tmp_path / "R", secure_aggregation=True, rounds=1, policy=RoundPolicy(retries=0, deadline=1, grace=0))
    assert run_rounds(spy, tmp_path / "R").status == "paused"
    # The same attempt again: answers that were kept are sent again, and it ends.
    state = run_rounds(InProcess(sites), tmp_path / "R")
    assert state.status == "completed" and state.history[0].attempts == 1


def test_a_site_may_ask_for_protection_and_refuses_a_run_without(sites: list[Site], tmp_path: Path) -> None:
    for rule, code in [("patient_privacy", "patient-privacy"), ("secure_aggregation", "secure-aggregation")]:
        strict = [replace(s, policy=s.policy.model_copy(update={rule: True})) for s in sites]
        begun(InProcess(strict), tmp_path / rule, rounds=1)
        spy = Spy(strict)
        assert run_rounds(spy, tmp_path / rule).status == "paused"
        assert {reply.error for _, reply in spy.seen} == {f"{code}-required"}


def test_sites_without_keys_answer_with_a_code(sites: list[Site], tmp_path: Path) -> None:
    begun(InProcess(sites), tmp_path / "R", secure_aggregation=True, rounds=1)
    state = run_rounds(InProcess(sites), tmp_path / "R")
    assert state.status == "paused" and "secure-sum-no-keys" in state.reason


def test_secure_patient_sends_one_masked_gradient_a_round_and_certifies_the_union(
    sites: list[Site], tmp_path: Path
) -> None:
    privacy = PrivacySettings(mode="secure_patient", epsilon=8.0, patches=1, sample_rate=0.5)
    spy = Spy(with_keys(sites))
    begun(spy, tmp_path / "R", "fedavgm", privacy=privacy, steps=7)
    before = weights_of(tmp_path / "R")
    state = run_rounds(spy, tmp_path / "R")
    certificate = Certificate.load(tmp_path / "R" / "privacy.json")
    assert state.status == "completed" and certificate.mode == "secure_patient"
    assert [site.account.mechanism.steps for site in certificate.sites] == [2, 2, 2]
    assert certificate.epsilon <= 8.0 and "no hospitals collude" in certificate.to_markdown()
    moved = weights_of(tmp_path / "R") - before
    assert np.isfinite(moved).all() and (moved != 0).mean() > 0.9


@pytest.mark.slow
def test_the_noise_of_secure_patient_is_that_of_one_site_shared_by_all(sites: list[Site], tmp_path: Path) -> None:
    privacy = PrivacySettings(mode="secure_patient", noise_multiplier=1e4, patches=1, clip=0.001, sample_rate=0.5)
    begun(InProcess(with_keys(sites)), tmp_path / "R", privacy=privacy, rounds=1)
    before = weights_of(tmp_path / "R")
    generous = [replace(s, policy=s.policy.model_copy(update={"epsilon_budget": 1e9})) for s in sites]
    state = run_rounds(InProcess(generous), tmp_path / "R")
    expected = 1e4 * 0.001 / (0.5 * sum(state.patients.values()))
    moved = weights_of(tmp_path / "R") - before
    assert moved[moved != 0].std() == pytest.approx(expected, rel=0.1)


def test_client_privacy_certifies_hospitals_and_not_patients(sites: list[Site], tmp_path: Path) -> None:
    privacy = PrivacySettings(mode="client", epsilon=8.0, clip=0.1)
    begun(InProcess(sites), tmp_path / "R", privacy=privacy)
    before = weights_of(tmp_path / "R")
    run_rounds(InProcess(sites), tmp_path / "R")
    certificate = Certificate.load(tmp_path / "R" / "privacy.json")
    (account,) = (site.account for site in certificate.sites)
    assert (account.patients, account.mechanism.sample_rate, account.mechanism.steps) == (3, 1.0, 2)
    expected = account.mechanism.noise_multiplier * 0.1 / 3 * 2**0.5
    assert (weights_of(tmp_path / "R") - before).std() == pytest.approx(expected, rel=0.15)
    assert "needs about 100 of them; here are 3" in certificate.to_markdown()


@pytest.mark.parametrize(
    ("strategy", "more", "sentence"),
    [
        ("median", {"secure_aggregation": True}, "has to look at each site's change"),
        ("async", {"secure_aggregation": True}, "has to look at each site's change"),
        ("fedavg", {"secure_aggregation": True, "compression": "int8"}, "compression=int8"),
        ("fedavg", {"secure_aggregation": True, "privacy": PrivacySettings(mode="client")}, "Choose one"),
        ("trimmed", {"privacy": PrivacySettings(mode="client")}, "takes something else"),
        ("scaffold", {"privacy": PATIENT}, "scaffold"),
        ("fedprox", {"privacy": PrivacySettings(mode="secure_patient")}, "one gradient a round"),
    ],
)
def test_protections_that_contradict_the_strategy_are_refused_with_a_sentence(
    sites: list[Site], tmp_path: Path, strategy, more, sentence
) -> None:
    six = [replace(sites[n % 3], name=f"s{n}", folder=tmp_path / f"s{n}") for n in range(6)]
    with pytest.raises(SettingsError, match=sentence):
        begun(InProcess(six), tmp_path / "R", strategy, **more)


def test_two_sites_can_not_sum_securely(sites: list[Site], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least 3 sites"):
        begun(InProcess(sites[:2]), tmp_path / "R", secure_aggregation=True)


def test_a_request_for_private_training_without_noise_is_refused(sites: list[Site], tmp_path: Path) -> None:
    state = begun(InProcess(sites), tmp_path / "R")
    settings = state.settings.model_copy(update={"privacy": PATIENT}).model_dump(mode="json")
    arrays = {f"weights.{name}": array for name, array in final_weights(tmp_path / "R").items()}
    reply = sites[0].answer(Request("train", "run", 1, state.plan_sha256, {"settings": settings}, arrays))
    assert reply.error == "bad-settings" and not (sites[0].folder / LEDGER).exists()


def test_a_comparison_shows_a_protected_model_beside_the_open_one_and_attacks_both(
    sites: list[Site], tmp_path: Path
) -> None:
    arms = Arms(
        sites=with_keys(sites),
        left_out=None,
        pooled=None,
        plan=tiny_plan(),
        table=TABLE,
        folder=tmp_path / "runs",
        settings=RunSettings(rounds=1, steps=1),
        protection={"privacy": PATIENT, "secure_aggregation": True},
    )
    comparison, _ = compare_arms(arms, ["fedavg"], [])
    assert [row.model for row in comparison.rows] == ["fedavg", "fedavg-patient"]
    assert not (tmp_path / "runs" / "fedavg" / "privacy.json").exists()
    assert Certificate.load(tmp_path / "runs" / "fedavg-patient" / "privacy.json").epsilon <= 8
    for row in comparison.rows:
        found = attack_run(sites, tmp_path / "runs" / row.model)
        assert (found.members, found.strangers) == (12, 3) and 0 <= found.low <= found.auc <= found.high <= 1


@pytest.mark.slow
def test_simulate_with_privacy_prints_the_certificate_and_the_attack(tmp_path: Path, capsys) -> None:
    words = ["sites=3", "rounds=1", "steps=1", "patches=1", "baselines=false", f"workspace={tmp_path}"]
    assert main(["federated", "simulate", *words, "privacy=patient", "epsilon=8", "secure_aggregation=true"]) == 0
    shown = capsys.readouterr().out
    assert "Privacy: epsilon 7.9" in shown or "Privacy: epsilon 8.0" in shown
    assert "one patient of one hospital" in shown and "AUC" in shown
    assert (tmp_path / "runs" / "fedavg-patient" / "privacy.md").is_file()


def test_a_site_makes_its_own_key_and_pins_those_of_the_others(tmp_path: Path, capsys) -> None:
    for name in ("north", "south"):
        write_site_file(tmp_path / name / "site.toml", name, "fl.example.org:443", "0" * 64)
        assert main(["federated", "pin-keys", f"site={tmp_path / name / 'site.toml'}"]) == 0
    shown = capsys.readouterr().out
    assert "north.pem" in shown and "SHA-256" in shown
    sent = tmp_path / "sent"
    sent.mkdir()
    for name in ("north", "south"):
        (sent / f"{name}.pem").write_bytes((tmp_path / name / "work" / "secure_sum" / "public.pem").read_bytes())
    assert main(["federated", "pin-keys", f"site={tmp_path / 'north' / 'site.toml'}", f"keys={sent}"]) == 0
    assert (tmp_path / "north" / "work" / "secure_sum" / "pinned" / "south.pem").is_file()
    pinned = (tmp_path / "north" / "work" / "secure_sum" / "pinned" / "south.pem").read_bytes()
    (sent / "south.pem").write_bytes((sent / "north.pem").read_bytes())
    assert main(["federated", "pin-keys", f"site={tmp_path / 'north' / 'site.toml'}", f"keys={sent}"]) == 2
    assert "Another key of 'south' is pinned already" in capsys.readouterr().err
    assert (tmp_path / "north" / "work" / "secure_sum" / "pinned" / "south.pem").read_bytes() == pinned
    private = tmp_path / "north" / "work" / "secure_sum" / "key.pem"
    assert private.stat().st_mode & 0o077 == 0 and b"PRIVATE" in private.read_bytes()
    (sent / "south.pem").write_text("rubbish")
    assert main(["federated", "pin-keys", f"site={tmp_path / 'north' / 'site.toml'}", f"keys={sent}"]) == 2
    assert "south.pem is no public key on P-384" in capsys.readouterr().err
