"""Whether a structure's score depends on a concept that is shown by examples, along concept activation vectors.

Kim et al. 2018 (TCAV), for segmentation: the vector points, in the channels of one layer, from the mean of random
examples to that of the concept's (what divides them best points elsewhere where channels go together, Pahde et al.
2024); the score is the share of the structure's places at which its logits rise along it. Random sets are
drawn several times, as is half of the concept's examples, and what they give is compared by Welch's t-test with vectors
between random sets. Because runs share the concept's examples that test alone finds too much; so examples must also be
told from random ones when they are left out, more often than by chance. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d

from medseg.errors import SettingsError
from medseg.explanation.cam import activation_and_gradient
from medseg.explanation.document import ConceptScore
from medseg.explanation.target import Target

FEWEST = 6
"""Examples of a concept; half of fewer would be no set."""
_SHRINKAGE = 0.1
"""Towards equal variances of all channels without covariance, when two sets are told apart."""

Vectors = Float[np.ndarray, "N C"]


@dataclass(frozen=True)
class Example:
    """What is shown: a patch and where in it to look."""

    patch: Tensor
    """(1, C, Z, Y, X)."""
    region: Tensor
    """(Z, Y, X), booleans; at least one voxel."""


def vectors_of(network: nn.Module, layer: str, examples: Sequence[Example]) -> Vectors:
    """What the layer gives for every example, mean over its region."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(_noting(seen))
    try:
        with torch.no_grad():
            for example in examples:
                network(example.patch)
    finally:
        handle.remove()
    rows = [
        (one * share_of(example.region, one)).flatten(2).sum(2)[0] for one, example in zip(seen, examples, strict=True)
    ]
    return torch.stack(rows).double().cpu().numpy()


def _noting(seen: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda _layer, _input, output: seen.append(output)


def share_of(region: Tensor, activation: Tensor) -> Tensor:
    """How much of the region lies at each place of a layer's map ``(1, C, ...)``: ``(1, 1, ...)``, the sum is 1."""
    where = region[None, None].to(activation)
    size = (1,) * (5 - activation.ndim) + tuple(activation.shape[2:])
    found = adaptive_avg_pool3d(where, (size[0], size[1], size[2]))
    found = found[:, :, 0] if activation.ndim == 4 else found  # inside a 2D network
    return found / found.sum()


def slopes_of(target: Target, layer: str) -> Vectors:
    """The gradient of a structure's score at each place of the layer's map that is at least half inside its region (or
    as much as any is), by channel."""
    activation, gradient = activation_and_gradient(target, layer)
    share = share_of(target.region, activation)
    inside = (share >= 0.5 * share.max()).flatten()
    return gradient[0].flatten(1)[:, inside].T.double().cpu().numpy()


def direction(first: Vectors, second: Vectors) -> Float[np.ndarray, " C"]:
    """From the mean of the second set to that of the first."""
    return first.mean(axis=0) - second.mean(axis=0)


def dividing(first: Vectors, second: Vectors) -> Float[np.ndarray, " C"]:
    """At right angles to the plane that divides the two sets best (shrunk Fisher), towards the first."""
    centred = np.concatenate([first - first.mean(axis=0), second - second.mean(axis=0)])
    spread = centred.std(axis=0) + 1e-12
    scaled = centred / spread
    covariance = scaled.T @ scaled / len(scaled)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(len(spread))
    return np.linalg.solve(covariance, direction(first, second) / spread) / spread


def score_along(slopes: Vectors, along: Float[np.ndarray, " C"]) -> float:
    """Share of places at which the score rises."""
    return float((slopes @ along > 0).mean())


def judge_concept(slopes: Vectors, concept: Vectors, random: Vectors, runs: int, seed: int = 0) -> ConceptScore:
    """Compare a concept's vectors with those of random sets.

    ``random`` are more examples than there are of the concept. Raises SettingsError for too few of either.
    """
    from scipy.stats import binomtest, t

    if len(concept) < FEWEST or len(random) < 2 * len(concept):
        raise SettingsError(
            f"{len(concept)} examples of the concept and {len(random)} random ones are too few: give at least {FEWEST} "
            "of it, and twice as many random ones."
        )
    generator, half = np.random.default_rng(seed), len(concept) // 2

    def drawn(rows: Vectors, count: int) -> Vectors:
        return rows[generator.choice(len(rows), count, replace=False)]

    found, chance = [], []
    for _ in range(runs):
        found.append(score_along(slopes, direction(drawn(concept, half), drawn(random, half))))
        both = drawn(random, 2 * half)
        chance.append(score_along(slopes, direction(both[:half], both[half:])))
    right, shown = told_apart(concept, drawn(random, len(concept)))
    spread = t.ppf(0.975, runs - 1) * np.std(found, ddof=1) / runs**0.5
    mean = float(np.mean(found))
    return ConceptScore(
        places=len(slopes),
        examples=len(concept),
        random_examples=len(random),
        runs=runs,
        score=mean,
        low=max(mean - float(spread), 0.0),
        high=min(mean + float(spread), 1.0),
        random_score=float(np.mean(chance)),
        p_value=_welch(found, chance),
        told_apart=right / shown,
        told_apart_p=float(binomtest(right, shown, alternative="greater").pvalue),
    )


def told_apart(first: Vectors, second: Vectors) -> tuple[int, int]:
    """How many examples are put on the right side by the others, of how many."""
    right = 0
    for own, other in ((first, second), (second, first)):
        for place in range(len(own)):
            rest = np.delete(own, place, axis=0)
            along = dividing(rest, other)
            middle = (rest.mean(axis=0) + other.mean(axis=0)) / 2
            right += int((own[place] - middle) @ along > 0)
    return right, len(first) + len(second)


def _welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test; 1 where nothing varies and nothing differs."""
    from scipy.stats import ttest_ind_from_stats

    # Scores that never vary are all 0 or all 1: as if one place in one run had been otherwise.
    least = 0.5 / len(first)
    one, other = (max(float(np.std(values, ddof=1)), least) for values in (first, second))
    result = ttest_ind_from_stats(np.mean(first), one, len(first), np.mean(second), other, len(second), equal_var=False)
    return float(result[1])
