"""What has been spent on a site's patients: append-only, hash-chained, written before the spending, never refunded.

Lies at the hospital and knows nothing of networks. All rounds of all runs add up, since they see the same patients; a
charge that would pass the site's budget is refused before a patient's image is read. That the log was not changed or
shortened is the business of ``medseg.chained_log``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import PositiveInt, ValidationError

from medseg.chained_log import ChainedLog
from medseg.documents import Record
from medseg.errors import MedsegError, SiteError
from medseg.federation.privacy.accounting import Mechanism, epsilon_rdp

LEDGER = "privacy_ledger.jsonl"
_CHARGED = "charged"


class Charge(Record):
    """What one round is allowed to spend."""

    run: str
    round: int
    purpose: str
    """What for: ``train``, ``fingerprint``."""
    dataset: str
    """Which patients, by the hash of their names."""
    patients: PositiveInt
    mechanism: Mechanism


class Entry(Record):
    """One line of the ledger."""

    charge: Charge
    epsilon: float
    """Of everything up to and with this line, by RDP at ``delta``."""
    delta: float


class Ledger:
    """The ledger of one site."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = ChainedLog(path)

    def charge(self, charge: Charge, budget: float, delta: float) -> Entry:
        """Write the charge to the disk and give the new state; only then may the patients be looked at.

        Raises SiteError: ``privacy-budget-spent`` where epsilon would pass the budget, ``privacy-ledger-damaged`` where
        the ledger is not what was written.
        """
        try:
            with self._log.held() as held:
                mechanisms = [*(entry.charge.mechanism for entry in self._entries()), charge.mechanism]
                epsilon = epsilon_rdp(mechanisms, delta)
                if not epsilon <= budget:  # whatever is no number is too much as well
                    raise SiteError("privacy-budget-spent")
                entry = Entry(charge=charge, epsilon=epsilon, delta=delta)
                held.append(_CHARGED, **entry.model_dump(mode="json"))
        except SiteError:
            raise
        except MedsegError as error:
            raise SiteError("privacy-ledger-damaged") from error
        return entry

    def entries(self) -> list[Entry]:
        """Every charge so far. Raises SiteError where the ledger is not what was written."""
        if self._log.verify().is_tampered:
            raise SiteError("privacy-ledger-damaged")
        return self._entries()

    def spent(self, delta: float, run: str | None = None) -> float:
        """Epsilon so far, of one run or of all of them together, by RDP."""
        return epsilon_rdp([e.charge.mechanism for e in self.entries() if run in (None, e.charge.run)], delta)

    def _entries(self) -> list[Entry]:
        """Half a last line was being written when the process died: what it would have paid for never ran, since
        ``charge`` had not returned."""
        try:
            return [_entry(line) for line in self._log.read() if line["what"] == _CHARGED]
        except (ValidationError, KeyError):
            raise SiteError("privacy-ledger-damaged") from None


def _entry(line: dict[str, Any]) -> Entry:
    return Entry(charge=line["charge"], epsilon=line["epsilon"], delta=line["delta"])
