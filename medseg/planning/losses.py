"""What the planner, ``medseg info`` and the help know of each loss, and how a weighted sum of them is written.

Without torch: the formulas stand in ``medseg.training.losses``; a test holds that table against this one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from medseg.errors import MedsegError, PlanError


@dataclass(frozen=True)
class LossSummary:
    """A loss as the planner sees it."""

    name: str
    summary: str
    stands_alone: bool = True
    """Whether a network learns by it alone; the others go beside one that does."""


LOSSES: dict[str, LossSummary] = {
    loss.name: loss
    for loss in (
        LossSummary("dice_ce", "Dice and cross-entropy with equal weight (Isensee et al. 2021)"),
        LossSummary("dice", "soft Dice of every structure, -1 at best (Drozdzal et al. 2016)"),
        LossSummary("ce", "cross-entropy"),
        LossSummary("generalised_dice", "Dice of all classes, weighted by 1 / volume squared (Sudre et al. 2017)"),
        LossSummary("tversky", "overlap that minds missed voxels more than false ones (Salehi et al. 2017)"),
        LossSummary("focal_tversky", "Tversky with more weight on badly found structures (Abraham and Khan 2019)"),
        LossSummary("lovasz", "Lovasz-softmax: a convex surrogate of IoU (Berman et al. 2018)"),
        LossSummary("focal", "cross-entropy that fades where voxels are well found (Lin et al. 2017)"),
        LossSummary("topk_ce", "cross-entropy of the worst tenth of the voxels (Wu et al. 2016)"),
        LossSummary("boundary", "distance of what is found from the true border (Kervadec et al. 2019)", False),
        LossSummary("hausdorff", "errors weighted by squared distance from both borders (Karimi and Salcudean 2019)"),
        LossSummary("cldice", "Dice of centre lines, for vessels and other tubes (Shit et al. 2021)", False),
        LossSummary("skeleton_recall", "share of the centre lines that is found (Kirchhoff et al. 2024)", False),
        LossSummary("smoothed_ce", "cross-entropy to labels that are 0.9 sure (Szegedy et al. 2016)"),
        LossSummary("soft_ce", "cross-entropy to labels that soften near borders (Islam and Glocker 2021)"),
        LossSummary("generalised_ce", "between CE and mean absolute error, for wrong labels (Zhang and Sabuncu 2018)"),
        LossSummary("symmetric_ce", "CE and its reverse, for wrong labels (Wang et al. 2019)"),
        LossSummary("bootstrap", "labels mixed with the network's own answer, for wrong labels (Reed et al. 2015)"),
        LossSummary("soft_bootstrap", "the same with its probabilities instead of its answer (Reed et al. 2015)"),
        LossSummary("evidential", "evidence for classes, for network.head=evidential (Sensoy et al. 2018)"),
        LossSummary("learned", "a patch's labels as a whole, for network.head=learned (Monteiro et al. 2020)"),
    )
}


@dataclass(frozen=True)
class WeightedLoss:
    """One part of a weighted sum."""

    name: str
    weight: float = 1.0


def parse_loss(text: str | Sequence[str]) -> tuple[WeightedLoss, ...]:
    """``dice_ce``, ``[dice_ce, 0.5*boundary]``, a list of such parts, or ``dice_ce + 0.5*boundary``.

    Raises PlanError, in one sentence, for an unknown name, a weight that is no number above 0, a loss that is named
    twice, or a sum in which nothing stands alone.
    """
    parts = re.split(r"[,+]", text.strip().removeprefix("[").removesuffix("]")) if isinstance(text, str) else text
    found = tuple(_parse_part(str(part)) for part in parts)
    names = [part.name for part in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise PlanError(f"The loss '{twice}' is named twice. Give it once, with the sum of its weights.")
    if not any(LOSSES[name].stands_alone for name in names):
        raise PlanError(
            f"By '{write_loss(found)}' alone a network does not learn where structures are. Put it beside another "
            f"loss: [dice_ce, {', '.join(f'0.5*{name}' for name in names)}]."
        )
    return found


def write_loss(parts: Sequence[WeightedLoss]) -> str:
    """The one way in which a Plan writes it: ``dice_ce + 0.5*boundary``."""
    return " + ".join(part.name if part.weight == 1 else f"{part.weight:g}*{part.name}" for part in parts)


def _parse_part(part: str) -> WeightedLoss:
    weight_text, star, name = part.strip().strip("\"'").rpartition("*")
    name = name.strip()
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1, cutoff=0.6)
        hint = f"Did you mean '{near[0]}'?" if near else f"Choose one of: {', '.join(LOSSES)}."
        raise PlanError(f"There is no loss '{name}'. {hint}")
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise PlanError(f"The weight of loss '{name}' should be a number above 0, such as 0.5*{name}, not '{part}'.")
    return WeightedLoss(name, weight)


def _read_loss(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        return value
    try:
        return write_loss(parse_loss(value))
    except MedsegError as error:
        raise ValueError(str(error)) from None


Loss = Annotated[str, BeforeValidator(_read_loss)]
"""A loss or a weighted sum of losses, as ``write_loss`` writes it."""
