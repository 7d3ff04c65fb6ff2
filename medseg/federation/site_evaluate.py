"""One or several networks scored on a site's held-out cases; only means with their intervals leave.

Arrays come as ``weights.<name>``, or as ``0.<name>``, ``1.<name>``, ... for an ensemble of so many ``members``, whose
probabilities are averaged. Tensors that the run keeps local are the site's own, as its last round left them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from medseg.cases.case import read_case_image, read_case_labels
from medseg.errors import SiteError
from medseg.evaluation.metrics import CaseScores
from medseg.evaluation.scores import Scores, score_case, summarise
from medseg.federation.egress import Answer
from medseg.federation.messages import JSON, Request
from medseg.federation.run_settings import read_settings
from medseg.federation.site_run import SiteRun
from medseg.federation.site_train import merged_weights, part_of
from medseg.inference.devices import choose_device
from medseg.inference.predict import predict_image
from medseg.preprocessing.store import open_prepared
from medseg.training.fold import new_network

if TYPE_CHECKING:
    from medseg.federation.site import Site

_MOST_MEMBERS = 100
_STEP = 0.5


def answer(site: Site, request: Request) -> Answer:
    """Score; where fewer cases are held out than the site's ``min_count``, only their number is told."""
    run = SiteRun.begun(site, request)
    held_out = run.split[1]
    if len(held_out) < site.policy.min_count:
        return Answer({"cases": len(held_out), "dice": None, "dice_low": None, "dice_high": None, "structures": None})
    networks = _networks(run, request)
    scores = score_held_out(run, networks)
    scores.save(run.folder / "scores.json")
    return Answer(_told(scores, len(held_out)))


def score_held_out(run: SiteRun, networks: list[nn.Module]) -> Scores:
    """Every held-out case predicted whole by the average of the networks, and scored on its own grid."""
    device, table, mirrored = choose_device(run.site.device), run.table, run.plan.training.mirror_axes
    scored: list[CaseScores] = []
    for case in run.split[1]:
        stored = open_prepared(run.prepared, case.name)
        prediction = predict_image(
            stored.image,
            stored.grid,
            networks,
            run.configuration,
            labels=table,
            device=device,
            mirror_axes=mirrored if run.site.mirrors else (),
            step=_STEP,
            case=case.name,
        )
        truth = read_case_labels(case, table, read_case_image(case, len(run.plan.channels)))
        scored.append(score_case(prediction, truth.array, truth.spacing, table, case=case.name))
    return summarise(scored)


def _networks(run: SiteRun, request: Request) -> list[nn.Module]:
    settings, members = read_settings(request.header.get("settings")), request.header.get("members", 0)
    if not isinstance(members, int) or not 0 <= members <= _MOST_MEMBERS:
        raise SiteError("bad-settings")
    recipe, state = run.recipe(settings), run.state_before(settings.rounds + 1)
    if settings.keep_local and not any(name.startswith("private.") for name in state):
        raise SiteError("no-private-part")  # this site has not trained, so nothing of its own completes the network
    networks = []
    for prefix in [str(number) for number in range(members)] or ["weights"]:
        network = new_network(recipe)
        network.load_state_dict(merged_weights(recipe, settings, part_of(request.arrays, prefix), state))
        networks.append(network)
    return networks


def _told(scores: Scores, cases: int) -> dict[str, JSON]:
    dice, hd95 = scores.average.get("dice"), scores.average.get("hd95_mm")
    per_structure = (structure.metrics.get("dice") for structure in scores.structures)
    return {
        "cases": cases,
        "dice": None if dice is None else dice.mean,
        "dice_low": None if dice is None else dice.low,
        "dice_high": None if dice is None else dice.high,
        "hd95_mm": None if hd95 is None else hd95.mean,
        "structures": [None if statistic is None else statistic.mean for statistic in per_structure],
    }
