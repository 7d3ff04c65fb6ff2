"""What a site does before and instead of its usual training where patients are protected: charge, then draw patients.

Knows nothing of the server. The site's own policy says how much its patients may spend; the ledger is written before
the first image is read, so that a killed training has cost what it would have cost.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.errors import SiteError
from medseg.federation.policy import SitePolicy
from medseg.federation.privacy.accounting import Mechanism, largest_delta
from medseg.federation.privacy.certificate import SiteAccount
from medseg.federation.privacy.ledger import LEDGER, Charge, Ledger
from medseg.federation.protection import mechanism_of
from medseg.federation.run_settings import RunSettings
from medseg.federation.secure_site import FOLDER as SECURE_SUM
from medseg.federation.site_run import SiteRun
from medseg.files import hash_content

Patients = Mapping[str, Sequence[str]]


def require_allowed(policy: SitePolicy, settings: RunSettings) -> None:
    """Raise SiteError where the site asks for more protection than the run has."""
    if policy.patient_privacy and not settings.privacy.per_patient:
        raise SiteError("patient-privacy-required")
    if policy.secure_aggregation and not settings.is_masked:
        raise SiteError("secure-aggregation-required")


def forget_protection(folder: Path) -> None:
    """For simulations, whose patients are spent by nobody: the ledger and the keys of a site begin anew."""
    for path in folder.glob(LEDGER + "*"):
        path.unlink()
    shutil.rmtree(folder / SECURE_SUM, ignore_errors=True)


def charge_fingerprint(folder: Path, run: str, policy: SitePolicy, patients: Patients, histograms: int) -> None:
    """Write to the site's ledger what its noised histograms cost, before a case is measured.

    A patient has a mass of 1 in each of them, so that all together change by at most the root of their number. Raises
    SiteError as ``charge_round`` does.
    """
    noise = policy.fingerprint_noise / math.sqrt(histograms)
    charge = _charge(run, 0, "fingerprint", patients, Mechanism(sample_rate=1.0, noise_multiplier=noise, steps=1))
    Ledger(folder / LEDGER).charge(charge, policy.epsilon_budget, largest_delta(len(patients)))


def _charge(run: str, number: int, purpose: str, patients: Patients, mechanism: Mechanism) -> Charge:
    return Charge(
        run=run,
        round=number,
        purpose=purpose,
        dataset=hash_content(sorted(patients)),
        patients=len(patients),
        mechanism=mechanism,
    )


def charge_round(run: SiteRun, round_number: int, settings: RunSettings, patients: Patients) -> SiteAccount:
    """Write the round's cost to the site's ledger; the account that is told.

    Raises SiteError: ``privacy-budget-spent`` where it would pass the site's budget, ``bad-settings`` without noise,
    ``privacy-ledger-damaged``.
    """
    if settings.privacy.noise_multiplier is None:
        raise SiteError("bad-settings")
    policy, ledger = run.site.policy, Ledger(run.site.folder / LEDGER)
    steps = settings.steps if settings.privacy.mode == "patient" else 1
    delta = largest_delta(len(patients))
    charge = _charge(run.run, round_number, "train", patients, mechanism_of(settings, steps))
    entry = ledger.charge(charge, policy.epsilon_budget, delta)
    own = [e.charge for e in ledger.entries() if e.charge.run == run.run]
    planning = [charge.mechanism for charge in own if charge.purpose == "fingerprint"]
    return SiteAccount(
        site=run.site.name,
        patients=len(patients),
        delta=delta,
        mechanism=_together([one.mechanism for one in own if one.purpose == "train"], charge.mechanism),
        planning=_together(planning, planning[0]) if planning else None,
        clip=settings.privacy.clip,
        epsilon_ever=entry.epsilon,
        budget=policy.epsilon_budget,
    )


def _together(own: Sequence[Mechanism], newest: Mechanism) -> Mechanism:
    """All of this run's steps; its noise and rate are the same in every round."""
    if any(one.model_copy(update={"steps": newest.steps}) != newest for one in own):
        raise SiteError("privacy-changed")
    return newest.model_copy(update={"steps": sum(one.steps for one in own)})
