"""The smallest change of an image in one place that removes a structure from it, or adds one.

Meaningful perturbation (Fong & Vedaldi 2017), filled in from around (Chang et al. 2019): every voxel of the place is
mixed with what could be there instead, and how much of it is learned, with a price for area and for edges of the mask.
To remove, that is the surroundings continued inwards with their noise; to add, one brightness, which is learned too.
Knows nothing of files; whether the change holds for the whole prediction is for the caller to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, max_pool3d

from medseg.explanation.target import Target

STEPS = 120
_RATE = 0.2
_MARGIN = 1.0
"""By how much a logit should be beyond the border between structure and not."""
_EDGES = 0.2
"""Price of the mask's edges beside that of its area."""
_LEFT = 0.1
"""Share of the region that may stay as it was."""
_AROUND = 2
"""Voxels around the region that may change as well: its border is mixed with what is outside."""
_INWARDS = 300
"""Steps in which the surroundings are continued inwards."""
_PRICE_FALLS, _PRICE_RISES = 0.9, 1.1
"""Of what remains, against the area: each step in which enough has gone or not."""


@dataclass(frozen=True)
class Changed:
    """What came of it."""

    patch: Tensor
    """(1, C, Z, Y, X), with the change where one was found."""
    opacity: Tensor
    """(Z, Y, X), 0 to 1: how much of each voxel was replaced."""
    place: Tensor
    """(Z, Y, X), booleans: where a change was allowed."""
    before: float
    """Share of the region that is the structure."""
    after: float
    everything: float
    """The same where the whole place is replaced."""
    was_found: bool


def is_already(share: float, change: Literal["remove", "add"]) -> bool:
    """Whether so much of a region is the structure that there is nothing to add, or so little that nothing is there."""
    return share <= _LEFT if change == "remove" else share >= 1 - _LEFT


def counterfactual(
    target: Target, change: Literal["remove", "add"], channels: int, are_classes: bool, seed: int = 0
) -> Changed:
    """Change the first ``channels`` of the patch; the others are labels of a cascade. Classes exclude one another."""
    place = _around(target.region)
    image, labels = target.patch[:, :channels], target.patch[:, channels:]
    noise = _noise(image, place, seed)
    fill = noise + (_continued(image, place) if change == "remove" else _uniform(image, place))
    brightness = torch.zeros((1, channels, 1, 1, 1), device=fill.device, requires_grad=change == "add")

    def mixed(opacity: Tensor) -> Tensor:
        return torch.cat([image * (1 - opacity) + (fill + brightness) * opacity, labels], 1)

    margins = _margins_of(target, are_classes)
    sign = 1.0 if change == "remove" else -1.0

    def remaining(patch: Tensor) -> tuple[Tensor, float]:
        margin = sign * margins(patch)
        return (margin + _MARGIN).relu().mean(), float((margin.detach() > 0).float().mean())

    whole = place[None, None].to(fill)
    if change == "add":
        _learn(lambda: remaining(mixed(whole))[0], brightness)
    with torch.no_grad():
        before, everything = remaining(target.patch)[1], remaining(mixed(whole))[1]
    brightness.requires_grad_(False)
    opacity = _smallest(whole, mixed, remaining) if everything <= _LEFT else None
    with torch.no_grad():
        patch = target.patch if opacity is None else mixed(opacity).detach()
        after = remaining(patch)[1]
    shares = [share if change == "remove" else 1 - share for share in (before, after, everything)]
    shown = torch.zeros_like(whole) if opacity is None else opacity
    return Changed(patch, shown[0, 0].detach(), place, *shares, was_found=opacity is not None)


def _smallest(
    whole: Tensor,
    mixed: Callable[[Tensor], Tensor],
    remaining: Callable[[Tensor], tuple[Tensor, float]],
) -> Tensor:
    """The opacity ``(1, 1, Z, Y, X)`` of the least area that suffices; replacing everything does."""
    start = torch.full_like(whole, 2.0).requires_grad_(True)
    optimizer = torch.optim.Adam([start], lr=_RATE)
    best, least, price, voxels = whole, 1.0, 1.0, float(whole.sum())
    for _ in range(STEPS):
        opacity = _smooth(start.sigmoid(), whole)
        loss, left = remaining(mixed(opacity))
        area = opacity.sum() / voxels
        if left <= _LEFT and area.item() < least:
            best, least = opacity.detach(), area.item()
        price *= _PRICE_FALLS if left <= _LEFT else _PRICE_RISES
        edges = sum((opacity.diff(dim=axis).abs().sum() for axis in (2, 3, 4)), start=torch.zeros_like(area)) / voxels
        (start.grad,) = torch.autograd.grad(price * loss + area + _EDGES * edges, start)
        optimizer.step()
    return best


def _learn(loss: Callable[[], Tensor], free: Tensor) -> None:
    optimizer = torch.optim.Adam([free], lr=_RATE)
    for _ in range(STEPS // 2):
        (free.grad,) = torch.autograd.grad(loss(), free)
        optimizer.step()


def _margins_of(target: Target, are_classes: bool) -> Callable[[Tensor], Tensor]:
    """By how much the structure's logit is ahead at every voxel of the region ``(N,)``."""

    def margins(patch: Tensor) -> Tensor:
        logits = target.network(patch)[0][:, target.region]
        own = logits[target.output]
        if not are_classes:
            return own
        others = torch.cat([logits[: target.output], logits[target.output + 1 :]])
        return own - others.amax(dim=0)

    return margins


def _window(like: Tensor) -> tuple[list[int], list[int]]:
    """A kernel of three voxels on every axis that has as many, and its padding."""
    size = [3 if length > 1 else 1 for length in like.shape[-3:]]
    return size, [one // 2 for one in size]


def _around(region: Tensor) -> Tensor:
    size, padding = _window(region)
    found = region[None, None].float()
    for _ in range(_AROUND):
        found = max_pool3d(found, size, stride=1, padding=padding)
    return found[0, 0] > 0


def _averaged(values: Tensor) -> Tensor:
    size, padding = _window(values)
    return avg_pool3d(values, size, stride=1, padding=padding, count_include_pad=False)


def _smooth(opacity: Tensor, whole: Tensor) -> Tensor:
    return _averaged(opacity * whole) * whole


def _continued(patch: Tensor, place: Tensor) -> Tensor:
    """The surroundings continued into a place: every voxel there is the mean of those beside it."""
    found = _uniform(patch, place)
    for _ in range(_INWARDS):
        found = torch.where(place, _averaged(found), patch)
    return found


def _uniform(patch: Tensor, place: Tensor) -> Tensor:
    """The mean of what is around a place, in it; the patch elsewhere."""
    ring = _around(place) & ~place
    ring = ring if bool(ring.any()) else ~place if bool((~place).any()) else place
    mean = patch[:, :, ring].mean(dim=2)[..., None, None, None]
    return torch.where(place, mean, patch)


def _noise(patch: Tensor, place: Tensor, seed: int) -> Tensor:
    """As strong in each channel as what voxels outside of the place have that their neighbours lack."""
    rest = (patch - _averaged(patch))[:, :, ~place] if bool((~place).any()) else torch.zeros_like(patch[:, :, :1, 0, 0])
    strength = rest.std(dim=2, correction=0)[..., None, None, None]
    drawn = torch.randn(patch.shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(patch) * strength
