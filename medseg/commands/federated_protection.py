"""The words by which a federated run is asked to protect patients or hospitals, and the certificate on the screen.

Knows nothing of how; that is ``medseg.federation.protection``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat, PositiveInt

from medseg.commands.console import say, table
from medseg.federation.privacy.settings import PrivacyMode, PrivacySettings, Trainable
from medseg.settings import Settings

if TYPE_CHECKING:
    from medseg.federation.site import Site


class ProtectionWords(Settings):
    """Settings that any command has which trains over hospitals."""

    privacy: PrivacyMode = "none"
    """none; patient: each patient is protected, also from the server; client: each hospital, from outsiders;
    secure_patient: each patient, with one noise for all hospitals, under secure aggregation."""
    epsilon: PositiveFloat = 8.0
    """privacy=...: what the run may cost; smaller is safer and learns less."""
    clip: PositiveFloat = 1.0
    """privacy=...: longest gradient of one patient, or longest change of one hospital."""
    sample_rate: float = Field(default=0.5, gt=0, le=1)
    """privacy=...: probability with which a patient takes part in a step."""
    patches: PositiveInt = 2
    """privacy=...: patches of a patient in a step; they make one gradient."""
    trained: Trainable = "all"
    """privacy=...: what is trained: all, decoder, or norm_head."""
    overlapping: bool = False
    """privacy=...: a patient may be at several hospitals, so that what they spend adds up."""
    secure_aggregation: bool = False
    """The coordinator sees the sum of the hospitals' changes and none of them; needs three hospitals."""

    @property
    def is_protected(self) -> bool:
        """Whether any protection is asked for."""
        return self.privacy != "none" or self.secure_aggregation

    @property
    def protection_of_patients(self) -> bool:
        """Whether single patients are protected, at the cost of noise in every step."""
        return self.privacy in ("patient", "secure_patient")

    def protection(self) -> dict[str, Any]:
        """The settings of a run that protect."""
        privacy = PrivacySettings(
            mode=self.privacy,
            epsilon=self.epsilon,
            clip=self.clip,
            sample_rate=self.sample_rate,
            patches=self.patches,
            trained=self.trained,
            overlapping=self.overlapping,
        )
        return {"privacy": privacy, "secure_aggregation": self.secure_aggregation}


def show_privacy(sites: Sequence[Site], runs: Path) -> None:
    """What each federated run in a folder promises, and what an attack on its model finds."""
    from medseg.federation.leakage import attack_run
    from medseg.federation.run_state import RunState

    rows = []
    for folder in sorted(path.parent for path in runs.glob("*/run.json")):
        if set(RunState.found(folder)[0].sites) != {site.name for site in sites}:
            continue
        show_certificate(folder)
        found = attack_run(sites, folder)
        rows.append([folder.name, f"{found.auc:.3f} [{found.low:.2f}, {found.high:.2f}]"])
    table("Who was in the training? AUC of guessing by the loss, 0.5 is chance [95 % interval]", ["model", "AUC"], rows)


def show_certificate(folder: Path) -> None:
    """The certificate of the run in a folder, if it has one."""
    from medseg.federation.privacy.certificate import Certificate

    path = folder / "privacy.json"
    if not path.is_file():
        return
    certificate = Certificate.load(path)
    tight = "" if certificate.epsilon_tight is None else f" ({certificate.epsilon_tight:.2f} by the tight accountant)"
    say(
        f"Privacy: epsilon {certificate.epsilon:.2f}{tight} at delta {certificate.delta:.2g} for {certificate.unit}, "
        f"hidden from {certificate.protected_from}. What is outside of it: {folder / 'privacy.md'}"
    )
    for remark in certificate.remarks:
        say(remark)
