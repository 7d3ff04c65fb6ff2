"""A site takes over the agreed Plan and prepares its cases for it.

The Request's header holds ``plan`` (its content) and ``labels`` and ``targets`` (names in order); the site refuses what
does not fit its own data, and a network that no federated training should have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medseg.errors import PlanError, SiteError
from medseg.federation.agreement import require_agreed
from medseg.federation.anchored_loss import require_no_batch_statistics
from medseg.federation.egress import Answer
from medseg.federation.messages import JSON, Request
from medseg.federation.privacy.training import patients_of
from medseg.federation.site_run import SiteRun
from medseg.networks.build import build_network
from medseg.planning.plan import Plan

if TYPE_CHECKING:
    from medseg.federation.site import Site


def answer(site: Site, request: Request) -> Answer:
    """Prepare; how many cases the site will train on, and how many it holds out."""
    plan = read_plan(request.header.get("plan"))
    if plan.content_hash() != request.plan_sha256:
        raise SiteError("other-plan")
    run = SiteRun(site, request.run, plan)
    _require_fitting(run, request)
    training, held_out = run.split
    if "train" in site.policy.actions and len(training) < site.policy.min_count:
        raise SiteError("too-few-cases")
    run.prepare()
    run.keep_plan()
    return Answer(
        {
            "cases": len(training),
            "patients": len(patients_of(training)),
            "held_out": len(held_out),
            "plan_sha256": request.plan_sha256,
        }
    )


def read_plan(value: JSON) -> Plan:
    """The Plan in a header. Raises SiteError("bad-plan")."""
    if not isinstance(value, dict):
        raise SiteError("bad-plan")
    content: dict[str, Any] = dict(value)
    if (content.pop("kind", None), content.pop("format", None)) != (Plan.kind, Plan.format):
        raise SiteError("bad-plan")
    try:
        return Plan.validated(content, "the request")
    except PlanError:
        raise SiteError("bad-plan") from None


def _require_fitting(run: SiteRun, request: Request) -> None:
    configuration, table = run.configuration, run.table
    planned: list[JSON] = [channel.name for channel in run.plan.channels]
    require_agreed(run.dataset, request.header.get("labels"), request.header.get("targets"), planned)
    if configuration.previous is not None:
        raise SiteError("no-cascades")
    if run.plan.training.class_weights != "none" or run.plan.training.sampling.hard_patches:
        # The first would need every site's class counts, the second a memory of single patches between rounds.
        raise SiteError("recipe-not-federated")
    channels = len(run.plan.channels)
    require_no_batch_statistics(build_network(configuration.network, configuration.dimensions, channels, table.outputs))
