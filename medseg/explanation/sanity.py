"""Whether an explanation should be believed: does it depend on what was learned, does the score depend on it, and is
there a decision to be explained?

Rules: cascading randomisation (Adebayo et al. 2018): layers are initialised anew one after the other from the output
down, and the map has to change; deletion and insertion (Petsiuk et al. 2018): the image is blurred away, or brought
back, in the order of the map, and the score has to change faster than in random orders. Both can be so of a network
that was never trained; what gives it away is that it decides nothing: its probabilities stay near chance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medseg.documents import Record
from medseg.explanation.attribution import blurred
from medseg.explanation.target import Target

_STEPS = 10
"""Of the curves."""
_STAGES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the layers that are initialised anew."""
_ORDERS = 5
_FORGETFUL = 3
"""Networks that were initialised anew altogether; their maps' mean correlation counts."""
_DECIDED = 0.5
"""The share of the way from chance to certainty that a decision has to have gone."""
_ALIKE = 0.5
"""A larger correlation is no accident: 0.36 was measured for HiResCAM of a hippocampus network, which does change, and
0.53 for gradients that mostly follow the image."""


class Randomised(Record):
    """The map after the last layers were initialised anew."""

    share: float
    """Of all layers with weights."""
    correlation: float
    """Spearman's, with the map of the network as trained."""


class SanityReport(Record):
    """What was measured, and what follows."""

    randomised: tuple[Randomised, ...]
    threshold: float
    depends_on_weights: bool
    """Whether the maps of fully randomised networks are no more like the trained one's than the threshold."""
    deletion: tuple[float, ...]
    """The score while the most important voxels are blurred first, over that of the whole image."""
    insertion: tuple[float, ...]
    """The score while they are brought back first."""
    deletion_area: float
    deletion_area_random: float
    """The least of several random orders."""
    insertion_area: float
    insertion_area_random: float
    """The largest of several random orders."""
    is_faithful: bool
    """Whether the score falls faster, and rises faster, in the map's order than in any random one."""
    probability: float | None = None
    """The output's mean over the region."""
    chance: float | None = None
    """What a network gives that knows nothing."""
    is_decided: bool = True
    """Whether the probability is at least half way from chance to 1."""
    verdict: str


def check_sanity(target: Target, evidence: Tensor, explain: Callable[[Target], Tensor], seed: int = 0) -> SanityReport:
    """Measure both. ``explain`` makes a map like ``evidence`` for another network."""
    randomised = []
    for share in _STAGES:
        seeds = range(seed, seed + (_FORGETFUL if share == 1 else 1))
        alike = [rank_correlation(evidence, explain(_randomised(target, share, one))) for one in seeds]
        randomised.append(Randomised(share=share, correlation=float(np.mean(alike))))
    depends = randomised[-1].correlation <= _ALIKE
    rng = np.random.default_rng(seed)
    orders = [torch.from_numpy(rng.random(evidence.numel())).reshape(evidence.shape) for _ in range(_ORDERS)]
    deletion, insertion = _curve(target, evidence, deleting=True), _curve(target, evidence, deleting=False)
    by_chance = [(_area(_curve(target, one, True)), _area(_curve(target, one, False))) for one in orders]
    least, largest = min(one[0] for one in by_chance), max(one[1] for one in by_chance)
    falls, rises = _area(deletion) < least, _area(insertion) > largest
    probability, chance = target.certainty()
    decided = probability >= chance + _DECIDED * (1 - chance)
    unsure = None if decided else f"the network gives the region a mean probability of {probability:.2f} only"
    return SanityReport(
        randomised=tuple(randomised),
        threshold=_ALIKE,
        depends_on_weights=depends,
        deletion=tuple(deletion),
        insertion=tuple(insertion),
        deletion_area=_area(deletion),
        deletion_area_random=least,
        insertion_area=_area(insertion),
        insertion_area_random=largest,
        is_faithful=falls and rises,
        probability=probability,
        chance=chance,
        is_decided=decided,
        verdict=_verdict(bool((evidence > 0).any()), depends, falls, rises, unsure),
    )


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's; 0 where a map is the same everywhere."""
    from scipy.stats import rankdata  # slow to import

    ranks = np.stack([rankdata(one.detach().cpu().numpy().ravel()) for one in (first, second)])
    return 0.0 if (ranks.std(axis=1) == 0).any() else float(np.corrcoef(ranks)[0, 1])


def _verdict(has_evidence: bool, depends: bool, falls: bool, rises: bool, unsure: str | None) -> str:
    if not has_evidence:
        return "There is no positive evidence: the map is blank and shows nothing."
    if depends and falls and rises and unsure is None:
        return "The map depends on what was learned, and the score on what it marks. It says nothing about correctness."
    reasons = [] if depends else ["it hardly changes when the network forgets everything it has learned"]
    reasons += [] if falls else ["blurring what it marks lowers the score no faster than blurring at random"]
    reasons += [] if unsure is None else [unsure]
    reasons += [] if rises else ["bringing back what it marks raises the score no faster than bringing back at random"]
    return f"Do not believe this map: {'; '.join(reasons)}."


def _randomised(target: Target, share: float, seed: int) -> Target:
    """The same question after the last layers, by their order in the network, were initialised anew."""
    network = copy.deepcopy(target.network)
    layers = [one for one in network.modules() if callable(getattr(one, "reset_parameters", None))]
    layers = [one for one in layers if any(True for _ in one.parameters(recurse=False))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers[len(layers) - max(round(share * len(layers)), 1) :]:
            assert isinstance(layer, nn.Module)
            layer.reset_parameters()  # pyright: ignore[reportCallIssue] (asked for above)
    return target.with_network(network.eval())


def _curve(target: Target, order: Tensor, deleting: bool) -> list[float]:
    """The region's score, relative to that of the whole image, while voxels change sides, the most important first."""
    importance = order.reshape(-1)
    ranks = torch.argsort(importance, descending=True, stable=True).argsort().reshape(order.shape)
    start, blank = target.patch, blurred(target.patch)
    with torch.no_grad():
        whole, nothing = float(target.score(start)), float(target.score(blank))
        scale = whole - nothing
        found = []
        for step in range(_STEPS + 1):
            changed = (ranks < step / _STEPS * ranks.numel()).to(start.device)
            mixed = torch.where(changed, blank, start) if deleting else torch.where(changed, start, blank)
            found.append((float(target.score(mixed)) - nothing) / scale if scale else 0.0)
    return found


def _area(curve: Sequence[float]) -> float:
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))
