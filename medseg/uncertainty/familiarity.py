"""Whether an image is like those that a model was checked on: ``familiarity.json``, and what it says of a new image.

Knows nothing of files. Two distances: of what is measured of the image (the largest deviation from the held-out Cases,
in their spreads), and of the network's pooled features (Mahalanobis, with the covariance by probabilistic PCA: Lee et
al. 2018, Tipping & Bishop 1999), each for the fold's own network. Both are put on one scale by what held-out Cases give
when each is compared with the others, and the larger one counts. The limit is the one that a stated share of held-out
Cases exceeds (conformal anomaly detection, Laxhammar & Falkman 2011), so it holds for Cases exchangeable with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from medseg.documents import Document, Record
from medseg.errors import CheckpointError, MedsegError
from medseg.uncertainty.image_profile import SIZE, ImageProfile, average_of, likeness

FALSE_ALARMS = 0.05
FEWEST = 5
"""Held-out Cases, and held-out Cases of a fold for its network's features."""
_COMPONENTS = 8
_REASONS = 3


class Usual(Record):
    """One measurement over held-out Cases."""

    name: str
    centre: float
    """Mean, of the logarithm where the name ends in mm or ratio."""
    spread: float
    """Standard deviation, never below what rounding and small samples give."""
    low: float
    """Smallest and largest one, as measured."""
    high: float


class FeatureStatistics(Record):
    """Pooled features of one fold's network over the Cases that it has not seen."""

    fold: int
    layer: str
    cases: int
    mean: tuple[float, ...]
    components: tuple[tuple[float, ...], ...]
    """Directions of the largest variances, each of length 1."""
    variances: tuple[float, ...]
    """Along them."""
    rest: float
    """Variance along every other direction."""


class Scale(Record):
    """Mean and standard deviation of the logarithm of a distance over held-out Cases."""

    mean: float
    std: float

    def of(self, distance: float) -> float:
        """The distance in these units."""
        return (log(max(distance, 1e-12)) - self.mean) / self.std


class Familiarity(Document):
    """``familiarity.json``; holds no Case by itself."""

    kind: ClassVar[str] = "familiarity"
    error: ClassVar[type[MedsegError]] = CheckpointError

    configuration: str
    """Whose networks' features are compared: in a cascade the first."""
    identity: str
    """Of its networks; another training makes the document stale."""
    cases: int
    usual: tuple[Usual, ...]
    average: tuple[float, ...]
    """Thumbnail of all held-out Cases together, (C, 8, 8, 8)."""
    features: tuple[FeatureStatistics, ...]
    """Of each fold that has enough held-out Cases."""
    image_scale: Scale
    features_scale: Scale | None = None
    scores: tuple[float, ...]
    """Of held-out Cases, each compared with the others, ascending."""
    image_scores: tuple[float, ...]
    """The same by the image alone."""


class Judged(Record):
    """What is said of one new image."""

    score: float
    """0 is what held-out Cases give on average, 1 is one standard deviation more; the larger, the stranger."""
    limit: float
    """Above which an image is called unusual."""
    false_alarms: float
    """Share of usual images that are called unusual as well, on average over sets of held-out Cases."""
    false_alarms_high: float
    """What that share is with 95 % confidence at most, given how few held-out Cases there are."""
    cases: int
    """With how many held-out Cases it was compared."""
    reasons: tuple[str, ...]
    """What is unusual, the most unusual first."""

    @property
    def is_unusual(self) -> bool:
        return self.score > self.limit

    @property
    def warning(self) -> str | None:
        """A sentence for an unusual image, else None."""
        if not self.is_unusual:
            return None
        return (
            f"Unlike the {self.cases} held-out cases of the model (score {self.score:.1f}, limit {self.limit:.1f}): "
            f"{'; '.join(self.reasons)}. Its prediction may be wrong without looking so. "
            f"(About {100 * self.false_alarms:.2g} % of usual images are called so too, at most "
            f"{100 * self.false_alarms_high:.2g} % by the number of cases.)"
        )


@dataclass(frozen=True)
class Seen:
    """What one held-out Case adds."""

    fold: int
    profile: ImageProfile
    layer: str | None
    features: Float[np.ndarray, " F"] | None
    """By the network that has not seen it; None where it has no layers to look at."""


def learn_familiarity(seen: Sequence[Seen], configuration: str, identity: str) -> Familiarity | None:
    """The document; None with too few held-out Cases."""
    if len(seen) < FEWEST:
        return None
    rows = _measured(seen)
    image = [_image_distance(row, _usual([*rows[:i], *rows[i + 1 :]]))[0] for i, row in enumerate(rows)]
    image_scale = _scale(image)
    features = [_left_out(seen, place) for place in range(len(seen))]
    known = [distance for distance in features if distance is not None]
    features_scale = _scale(known) if len(known) >= FEWEST else None
    alone = [image_scale.of(distance) for distance in image]
    scores = [
        one if distance is None or features_scale is None else max(one, features_scale.of(distance))
        for one, distance in zip(alone, features, strict=True)
    ]
    average = average_of([one.profile.thumbnail for one in seen])
    folds = sorted({one.fold for one in seen}) if features_scale is not None else []
    return Familiarity(
        configuration=configuration,
        identity=identity,
        cases=len(seen),
        usual=tuple(_usual(rows)),
        average=tuple(float(value) for value in average.astype(np.float32).ravel()),
        features=tuple(one for fold in folds if (one := _fit_fold(seen, fold)) is not None),
        image_scale=image_scale,
        features_scale=features_scale,
        scores=tuple(sorted(scores)),
        image_scores=tuple(sorted(alone)),
    )


def judge_image(
    known: Familiarity,
    profile: ImageProfile,
    features: Mapping[int, Float[np.ndarray, " F"]],
    false_alarms: float = FALSE_ALARMS,
) -> Judged:
    """Compare an image with held-out Cases; ``features`` are those of the networks at hand, by fold.

    With too few held-out Cases for the asked share of false alarms, it is as small as their number allows.
    """
    average = np.array(known.average).reshape(-1, SIZE, SIZE, SIZE)
    measured = profile.measured | likeness(profile.thumbnail, average)
    distance, reasons = _image_distance(measured, known.usual)
    score, of_held_out = known.image_scale.of(distance), known.image_scores
    by_fold = {one.fold: one for one in known.features}
    distances = [mahalanobis(by_fold[fold], found) for fold, found in features.items() if fold in by_fold]
    if distances and known.features_scale is not None:
        mean = float(np.mean(distances))
        by_features, of_held_out = known.features_scale.of(mean), known.scores
        times = mean / float(np.exp(known.features_scale.mean))
        told = f"the network's features lie {times:.1f} times as far from the usual ones as those of a held-out case"
        reasons = [told, *reasons] if by_features > score else [*reasons, told] if times > 1 else reasons
        score = max(score, by_features)
    from scipy.stats import beta  # slow to import

    place = min(ceil((len(of_held_out) + 1) * (1 - false_alarms)), len(of_held_out))
    beyond = len(of_held_out) + 1 - place
    return Judged(
        score=score,
        limit=of_held_out[place - 1],
        false_alarms=beyond / (len(of_held_out) + 1),
        # Of n Cases the share beyond the k-th has the distribution Beta(n + 1 - k, k).
        false_alarms_high=float(beta.ppf(0.95, beyond, place)),
        cases=known.cases,
        reasons=tuple(reasons[:_REASONS]),
    )


def _measured(seen: Sequence[Seen]) -> list[dict[str, float]]:
    """What is measured of each Case; its likeness is to the average of the others."""
    total = np.sum([one.profile.thumbnail for one in seen], axis=0)
    return [
        one.profile.measured | likeness(one.profile.thumbnail, average_of([total - one.profile.thumbnail]))
        for one in seen
    ]


def _usual(rows: Sequence[Mapping[str, float]]) -> list[Usual]:
    """Every measurement over Cases."""
    found = []
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        compared = np.array([_compared(name, value) for value in values])
        spread = max(float(compared.std(ddof=1)), _floor(name))
        low, high = float(values.min()), float(values.max())
        found.append(Usual(name=name, centre=float(compared.mean()), spread=spread, low=low, high=high))
    return found


def _compared(name: str, value: float) -> float:
    return log(max(value, 1e-6)) if name.endswith(("mm", "ratio")) else value


def _floor(name: str) -> float:
    """The least spread: 2 % of a length, 10 % of a ratio, 0.05 of a level in standard deviations or of a likeness."""
    return 0.02 if name.endswith("mm") else 0.1 if name.endswith("ratio") else 0.05


def _image_distance(measured: Mapping[str, float], usual: Sequence[Usual]) -> tuple[float, list[str]]:
    """The largest deviation in spreads, and what lies outside of the usual range in words, the worst first."""
    deviations = {one.name: abs(_compared(one.name, measured[one.name]) - one.centre) / one.spread for one in usual}
    ordered = sorted(usual, key=lambda one: -deviations[one.name])
    reasons = [
        f"{one.name} {measured[one.name]:.3g} ({one.low:.3g} to {one.high:.3g} there)"
        for one in ordered
        if not one.low <= measured[one.name] <= one.high
    ]
    return max(deviations.values()), reasons


def _left_out(seen: Sequence[Seen], place: int) -> float | None:
    """Distance of a Case from the others of its fold."""
    one = seen[place]
    statistics = _fit_fold([*seen[:place], *seen[place + 1 :]], one.fold)
    return None if statistics is None or one.features is None else mahalanobis(statistics, one.features)


def _fit_fold(seen: Sequence[Seen], fold: int) -> FeatureStatistics | None:
    found = [one for one in seen if one.fold == fold and one.features is not None]
    if len(found) < FEWEST - 1:
        return None
    rows = np.stack([one.features for one in found if one.features is not None])
    mean = rows.mean(axis=0)
    _, lengths, directions = np.linalg.svd(rows - mean, full_matrices=False)
    variances = lengths**2 / (len(rows) - 1)
    kept = min(_COMPONENTS, (len(rows) - 1) // 2)
    rest = max(float(variances[kept:].sum()) / max(rows.shape[1] - kept, 1), 1e-3 * float(variances.sum()), 1e-12)
    return FeatureStatistics(
        fold=fold,
        layer=found[0].layer or "",
        cases=len(rows),
        mean=_rounded(mean),
        components=tuple(_rounded(one) for one in directions[:kept]),
        variances=tuple(max(float(one), rest) for one in variances[:kept]),
        rest=rest,
    )


def mahalanobis(known: FeatureStatistics, features: Float[np.ndarray, " F"]) -> float:
    """Root of the mean squared deviation over features, each direction by its own variance."""
    apart = features - np.array(known.mean)
    along = np.array(known.components).reshape(-1, apart.size) @ apart
    beside = max(float(apart @ apart - along @ along), 0.0) / known.rest
    return float(np.sqrt(((along**2 / np.array(known.variances)).sum() + beside) / apart.size))


def _scale(distances: Sequence[float]) -> Scale:
    logs = np.log(np.maximum(distances, 1e-12))
    return Scale(mean=float(logs.mean()), std=max(float(logs.std(ddof=1)), 0.05))


def _rounded(values: Float[np.ndarray, " F"]) -> tuple[float, ...]:
    """To single precision, which keeps the document small."""
    return tuple(float(f"{value:.7g}") for value in values)
