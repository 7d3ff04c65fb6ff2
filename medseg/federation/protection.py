"""Which protections of a run go together, the noise that its epsilon asks for, and what it promises in the end.

Knows no messages. Refuses before anything is trained what would promise less than it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medseg.errors import SettingsError
from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp, largest_delta, noise_for
from medseg.federation.privacy.certificate import Certificate, SiteAccount, certify
from medseg.federation.privacy.client_level import warning_below
from medseg.federation.privacy.settings import PrivacySettings
from medseg.federation.run_settings import RunSettings
from medseg.federation.secure_sum import FEWEST_SITES

if TYPE_CHECKING:
    from medseg.federation.run_state import RunState

_PLAN_OUTSIDE = "the plan: patch, network, spacing and intensity constants follow from training data, without noise"
_AVERAGED = ("fedavg", "fedprox", "fedavgm", "fedadam", "personalised")
"""Strategies that need no more of the sites than their mean."""


def require_compatible(strategy: str, settings: RunSettings, sites: int) -> None:
    """Raise SettingsError for protections that contradict the strategy or one another."""
    privacy = settings.privacy
    if settings.is_masked:
        _require_sum(strategy, settings, sites)
    if privacy.mode == "none":
        return
    if settings.control:
        raise SettingsError(
            "strategy=scaffold corrects every gradient by numbers that privacy would have to count as well, which is "
            "not done. Use strategy=fedavg or fedprox with privacy."
        )
    if privacy.mode == "client":
        if strategy not in _AVERAGED:
            raise SettingsError(
                f"privacy=client adds noise to a mean of clipped changes, and strategy={strategy} takes something "
                "else. Use strategy=fedavg, fedprox, fedavgm or fedadam."
            )
        if settings.is_masked:
            raise SettingsError(
                "privacy=client has the server clip every site's change, and secure_aggregation=true hides them from "
                "it. Choose one, or privacy=patient, which the sites see to themselves."
            )
    if privacy.mode == "secure_patient" and (settings.proximal_mu or settings.keep_local):
        raise SettingsError(
            "privacy=secure_patient has sites send one gradient a round, so nothing is trained at a site that could be "
            "kept near or kept there. Use strategy=fedavg, fedavgm or fedadam."
        )


def _require_sum(strategy: str, settings: RunSettings, sites: int) -> None:
    if strategy not in _AVERAGED:
        raise SettingsError(
            f"strategy={strategy} has to look at each site's change by itself, and secure_aggregation=true hides all "
            "but their sum. Use strategy=fedavg, fedprox, fedavgm or fedadam, or leave secure_aggregation out."
        )
    if settings.compression != "none":
        raise SettingsError(
            f"compression={settings.compression} rounds each site's change in its own way, and secure_aggregation=true "
            "adds them as they are. Leave one of them out."
        )
    if sites < FEWEST_SITES:
        raise SettingsError(
            f"secure_aggregation=true needs at least {FEWEST_SITES} sites, but there are {sites}: of a sum of two, "
            "each knows the other's part."
        )


def settled_privacy(settings: RunSettings, patients: Mapping[str, int]) -> RunSettings:
    """The settings with the noise that epsilon asks for, over all rounds, at the delta of the largest site.

    Raises SettingsError where no noise is enough.
    """
    privacy = settings.privacy
    if privacy.mode == "none" or privacy.noise_multiplier is not None:
        return settings
    records = len(patients) if privacy.mode == "client" else max(patients.values())
    noise = noise_for(privacy.epsilon, largest_delta(records), _rate(privacy), steps_of(settings))
    return settings.model_copy(update={"privacy": privacy.model_copy(update={"noise_multiplier": noise})})


def steps_of(settings: RunSettings) -> int:
    """Noised steps of the whole run."""
    return settings.iterations if settings.privacy.mode == "patient" else settings.rounds


def mechanism_of(settings: RunSettings, steps: int) -> Mechanism:
    """So many steps of the run."""
    privacy = settings.privacy
    assert privacy.noise_multiplier is not None  # settled
    return Mechanism(sample_rate=_rate(privacy), noise_multiplier=privacy.noise_multiplier, steps=steps)


def certificate_of(state: RunState, parameters: int) -> Certificate | None:
    """What the run promises, from what the sites have told; None for a run that promises nothing.

    ``parameters`` are those that are trained and shared.
    """
    settings, accounts, sites = state.settings, state.accounts, len(state.sites)
    privacy = settings.privacy
    if privacy.mode == "none" or not state.round:
        return None
    if privacy.mode == "client":
        accounts = {"every site": _client_account(settings, sites, state.round)}
    if not accounts:
        return None
    # A plan from noised histograms is in every site's ledger, and in epsilon.
    planned = privacy.per_patient and all(account.planning is not None for account in accounts.values())
    outside = [] if planned else [_PLAN_OUTSIDE]
    if state.start:
        outside.append(f"those on whose images the weights were trained with which it began (SHA-256 {state.start})")
    if settings.keep_local and privacy.mode == "client":
        outside.append("what stays at a site: it is trained there without noise and is not released")
    ordered = [accounts[name] for name in sorted(accounts)]
    remark = _remark(privacy, accounts, sites, parameters)
    return certify(state.run, privacy.mode, ordered, privacy.overlapping, outside, [remark] if remark else [])


def noise_per_signal(noise_multiplier: float, parameters: int, expected: float) -> float:
    """Length of a step's noise over that of the longest sum which so many clipped gradients can have."""
    return noise_multiplier * parameters**0.5 / expected


def _remark(privacy: PrivacySettings, accounts: Mapping[str, SiteAccount], sites: int, parameters: int) -> str | None:
    assert privacy.noise_multiplier is not None  # settled
    if privacy.mode == "client":
        return warning_below(sites, parameters, privacy.noise_multiplier)
    everyone = [account.patients for account in accounts.values()]
    patients = sum(everyone) if privacy.mode == "secure_patient" else min(everyone)
    expected = privacy.sample_rate * patients
    ratio = noise_per_signal(privacy.noise_multiplier, parameters, expected)
    where = "In each step" if privacy.mode == "secure_patient" else "At the smallest hospital, in each step,"
    return (
        f"{where} the noise is {ratio:.3g} times as long as the longest sum of gradients that {expected:.3g} "
        f"patients can have ({parameters:,} parameters, noise multiplier {privacy.noise_multiplier:.3g}). Fewer "
        "parameters, more patients or a larger epsilon make it less."
    )


def _client_account(settings: RunSettings, sites: int, rounds: int) -> SiteAccount:
    delta, mechanism = largest_delta(sites), mechanism_of(settings, rounds)
    return SiteAccount(
        site="every site",
        patients=sites,
        delta=delta,
        mechanism=mechanism,
        clip=settings.privacy.clip,
        epsilon_ever=epsilon_rdp([mechanism], delta),
    )


def _rate(privacy: PrivacySettings) -> float:
    """Hospitals all take part in every round."""
    return 1.0 if privacy.mode == "client" else privacy.sample_rate
