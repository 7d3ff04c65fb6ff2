"""What a private federated training promises, in words and numbers that can be held against it.

Knows nothing of how it was trained. Says whose presence is hidden and from whom, and what lies outside of epsilon: a
number without these is worth nothing (Ponomareva et al. 2023, arXiv 2303.00654, section 5.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from medseg.documents import Document, Record
from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp, epsilon_tight
from medseg.federation.privacy.noise import DESCRIPTION
from medseg.files import write_text

Mode = Literal["patient", "client", "secure_patient"]

UNITS: dict[Mode, str] = {
    "patient": "one patient of one hospital, with all examinations, patches and augmentations",
    "client": "one hospital with all its patients",
    "secure_patient": "one patient of any of the hospitals, with all examinations, patches and augmentations",
}
NEIGHBOURS: dict[Mode, str] = {
    "patient": "one patient added or removed",
    "client": "one hospital's update added or left out; the number of hospitals is fixed and public",
    "secure_patient": "one patient added or removed",
}
SEEN_BY: dict[Mode, str] = {
    "patient": "everyone outside the hospital, the server included",
    "client": "those who receive models; the server sees every hospital's update and has to be trusted",
    "secure_patient": "everyone outside the hospital, while the server follows the protocol and no hospitals collude",
}
_ALWAYS_OUTSIDE = (
    "the number of patients at each hospital, which is taken to be public",
    "which hospitals take part, their rounds and their failures",
    "patients of the test and validation sets, and every score measured on them",
    "models trained at a hospital alone for comparison, which are not released by this run",
)
_OUTSIDE: dict[Mode, tuple[str, ...]] = {
    "patient": _ALWAYS_OUTSIDE,
    "client": (*_ALWAYS_OUTSIDE, "single patients: a hospital with one patient more is the same hospital"),
    "secure_patient": _ALWAYS_OUTSIDE,
}


class SiteAccount(Record):
    """What was spent at one site; in mode ``client``, what was spent on every site alike."""

    site: str
    patients: PositiveInt
    """In mode ``client`` the number of sites."""
    delta: PositiveFloat
    mechanism: Mechanism
    """The steps of this run."""
    planning: Mechanism | None = None
    """The noised histograms from which its plan was made; None where the plan came otherwise, or without noise."""
    clip: PositiveFloat
    epsilon_ever: NonNegativeFloat
    """By RDP, of all runs on these patients, as the site's ledger has it."""
    budget: PositiveFloat | None = None
    """Largest epsilon that the site allows; None where there is no ledger."""


class Accounted(Record):
    """One site's account with the accountants' values."""

    account: SiteAccount
    epsilon_rdp: float
    """Of this run, its plan included where its histograms had noise."""
    epsilon_tight: float | None = None
    """The same by PRV, or exactly where every record took part in every step; None where PRV gives no answer."""


class Certificate(Document):
    """``privacy.json`` beside the model; ``privacy.md`` is the same for people."""

    kind: ClassVar[str] = "privacy-certificate"

    run: str
    mode: Mode
    unit: str
    neighbours: str
    protected_from: str
    sites: tuple[Accounted, ...]
    overlapping: bool
    """Whether a patient may have been at several hospitals: then epsilons and deltas add up."""
    epsilon: float
    """Of this run for the whole federation, by RDP."""
    epsilon_tight: float | None = None
    epsilon_ever: float
    """Of all runs that the ledgers know."""
    delta: float
    combined: Literal["largest", "sum"]
    random_numbers: str
    remarks: tuple[str, ...] = ()
    """What the noise does to the training."""
    outside: tuple[str, ...]
    """What epsilon says nothing about."""

    def to_markdown(self) -> str:
        """For people; ends with what is not covered."""
        tight = "none" if self.epsilon_tight is None else f"{self.epsilon_tight:.2f}"
        lines = [
            f"# Privacy of run {self.run}",
            "",
            f"epsilon = {self.epsilon:.2f} (RDP), {tight} (tight) at delta = {self.delta:.2g} in this run; "
            f"{self.epsilon_ever:.2f} (RDP) with all earlier runs on the same records.",
            "",
            f"- Hidden: the presence of {self.unit}.",
            f"- Neighbouring data sets: {self.neighbours}.",
            f"- Hidden from: {self.protected_from}.",
            f"- Federation: the {'sum over' if self.combined == 'sum' else 'largest of'} the sites' epsilons, since a "
            + ("patient may be at several hospitals." if self.overlapping else "patient is at one hospital only."),
            f"- Random numbers: {self.random_numbers}.",
            "",
            "| site | N | q | noise multiplier | clip | steps | epsilon RDP | tight | delta | all runs | budget |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(site) for site in self.sites),
            "",
            *(f"{remark}\n" for remark in self.remarks),
            "Outside of epsilon:",
            "",
            *(f"- {text}" for text in self.outside),
        ]
        return "\n".join(lines) + "\n"

    def save_in(self, folder: Path) -> None:
        """Write ``privacy.json`` and ``privacy.md``."""
        self.save(folder / "privacy.json")
        write_text(folder / "privacy.md", self.to_markdown())


def certify(
    run: str,
    mode: Mode,
    accounts: Sequence[SiteAccount],
    overlapping: bool,
    outside: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Certificate:
    """The certificate of a run; ``outside`` is what this run in particular left uncovered, such as its plan."""
    sites = tuple(_accounted(account) for account in accounts)
    combine = sum if overlapping else max
    tight = [site.epsilon_tight for site in sites]
    known = [value for value in tight if value is not None]
    return Certificate(
        run=run,
        mode=mode,
        unit=UNITS[mode],
        neighbours=NEIGHBOURS[mode],
        protected_from=SEEN_BY[mode],
        sites=sites,
        overlapping=overlapping,
        epsilon=combine(site.epsilon_rdp for site in sites),
        epsilon_tight=combine(known) if known and len(known) == len(tight) else None,
        epsilon_ever=combine(account.epsilon_ever for account in accounts),
        delta=combine(account.delta for account in accounts),
        combined="sum" if overlapping else "largest",
        random_numbers=DESCRIPTION,
        remarks=tuple(remarks),
        outside=(*_OUTSIDE[mode], *outside),
    )


def _accounted(account: SiteAccount) -> Accounted:
    history = [account.mechanism, *([account.planning] if account.planning else [])]
    return Accounted(
        account=account,
        epsilon_rdp=epsilon_rdp(history, account.delta),
        epsilon_tight=epsilon_tight(history, account.delta),
    )


def _row(site: Accounted) -> str:
    account, tight = site.account, "" if site.epsilon_tight is None else f"{site.epsilon_tight:.2f}"
    budget = "" if account.budget is None else f"{account.budget:g}"
    mechanism = account.mechanism
    cells = [
        account.site,
        str(account.patients),
        f"{mechanism.sample_rate:g}",
        f"{mechanism.noise_multiplier:.3g}",
        f"{account.clip:g}",
        str(mechanism.steps),
        f"{site.epsilon_rdp:.2f}",
        tight,
        f"{account.delta:.2g}",
        f"{account.epsilon_ever:.2f}",
        budget,
    ]
    return f"| {' | '.join(cells)} |"
