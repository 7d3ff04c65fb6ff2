"""What a site's cases measure, as counts on fixed grids: all that the common Plan needs of it.

The Request's header holds ``orientation``, ``channels``, ``labels`` and ``targets`` as the sites have agreed on. Only
cases that may be trained on are counted. A site with fewer than its ``min_count`` refuses. Histograms with noise
are paid for in the site's ledger; asked for the same once more, it sends those that it has kept.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.cases.formats import read_dataset
from medseg.errors import SiteError
from medseg.federation.agreement import require_agreed
from medseg.federation.egress import Answer
from medseg.federation.messages import JSON, Reply, Request
from medseg.federation.planning import DRAWS, count_cases, grids_of
from medseg.federation.policy import SitePolicy
from medseg.federation.privacy.training import patients_of
from medseg.federation.site_privacy import charge_fingerprint
from medseg.federation.site_run import training_and_held_out
from medseg.files import hash_content, written_whole
from medseg.planning.measure import measure_case
from medseg.planning.plan import Machine

if TYPE_CHECKING:
    from medseg.federation.site import Site


def answer(site: Site, request: Request) -> Answer:
    """Count: how many cases, the machine that the site declares, and the histograms."""
    dataset, orientation = read_dataset(site.dataset), request.header.get("orientation")
    if orientation not in ("canonical", "stored"):
        raise SiteError("bad-settings")
    table = dataset.labels
    require_agreed(dataset, *(request.header.get(name) for name in ("labels", "targets", "channels")))
    cases, _ = training_and_held_out(site, dataset)
    patients = Counter(case.group for case in cases)
    if len(patients) < site.policy.min_count:
        raise SiteError("too-few-cases")
    noisy = site.policy.fingerprint_noise > 0
    if noisy:
        histograms = len(grids_of(dataset.channels, table.target_names))
        charge_fingerprint(site.folder, request.run, site.policy, patients_of(cases), histograms)
    measured = [measure_case(case, dataset, orientation, DRAWS) for case in cases]
    # With noise a patient counts once, however many examinations he has had: that is what the noise is made for.
    weights = [1 / patients[case.group] if noisy else 1.0 for case in cases]
    counts = count_cases(measured, table, dataset.channels, weights)
    return Answer({"cases": len(cases), **_declared(site.machine)}, guarded(counts, site.policy))


def cached(site: Site, request: Request) -> Reply | None:
    """The noised answer that this very Request got before, if it did: other noise would be paid for again."""
    path = _reply_file(site, request)
    return Reply.from_bytes(path.read_bytes()) if site.policy.fingerprint_noise > 0 and path.is_file() else None


def keep(site: Site, request: Request, reply: Reply) -> None:
    """Keep an answer with noise; one without is made anew, from the cases as they are then."""
    if site.policy.fingerprint_noise > 0:
        with written_whole(_reply_file(site, request)) as temporary:
            temporary.write_bytes(reply.to_bytes())


def _reply_file(site: Site, request: Request) -> Path:
    asked = hash_content([hashlib.sha256(request.to_bytes()).hexdigest(), site.policy.fingerprint_noise])
    return site.folder / "runs" / request.run / f"fingerprint_{asked[:16]}.bin"


def guarded(counts: dict[str, np.ndarray], policy: SitePolicy) -> dict[str, np.ndarray]:
    """The histograms with noise, or without bins of too few cases, as the site's policy says."""
    if policy.fingerprint_noise > 0:
        random = np.random.Generator(np.random.Philox(secrets.randbits(128)))
        return {name: held + random.normal(0, policy.fingerprint_noise, held.shape) for name, held in counts.items()}
    # Intensities are shares of voxels: no bin of theirs is a patient.
    return {
        name: held if name.startswith("intensity.") else np.where(held < policy.suppress_below, 0.0, held)
        for name, held in counts.items()
    }


def _declared(machine: Machine | None) -> dict[str, JSON]:
    if machine is None:
        return {}
    speed = None if machine.flops_per_second is None else int(machine.flops_per_second)
    return {"device": machine.device, "memory_bytes": machine.memory_bytes, "flops_per_second": speed}
