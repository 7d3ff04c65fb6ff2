"""How often a usual image is called unusual, over many sets of held-out cases drawn from one distribution.

    python tests/benchmarks/false_alarms.py

Half a minute. Images' measurements, thumbnails and networks' features are drawn at random, with features that go
together; no network is trained, so only the statistics of ``medseg.uncertainty.familiarity`` are put to the test.
Prints the mean rate over 120 sets of cases with its standard error, and what 90 % and 95 % of the sets stay within.
"""

import numpy as np

from medseg.uncertainty.familiarity import Seen, judge_image, learn_familiarity
from medseg.uncertainty.image_profile import SIZE, ImageProfile

SETS, NEW, FEATURES, COMMON = 120, 40, 32, 6
KINDS = ((20, 2, False), (20, 1, True), (20, 2, True), (40, 2, True), (50, 5, True))
"""Held-out cases, folds, and whether features of networks are looked at."""


def profile(random: np.random.Generator, base: np.ndarray) -> ImageProfile:
    measured = {f"level {number}": float(random.normal()) for number in range(8)}
    measured["extent along z, mm"] = float(np.exp(0.1 * random.normal()))
    thumbnail = base + 0.3 * random.normal(size=base.shape)
    thumbnail -= thumbnail.mean()
    return ImageProfile(measured, thumbnail / np.linalg.norm(thumbnail))


def rate(seed: int, cases: int, folds: int, looks: bool) -> tuple[float, float]:
    """The share of new usual images that are called unusual, and as stated."""
    random = np.random.default_rng(seed)
    base = random.normal(size=(1, SIZE, SIZE, SIZE))
    networks = [random.normal(size=(COMMON, FEATURES)) for _ in range(folds)]

    def case() -> tuple[ImageProfile, list[np.ndarray]]:
        what = random.normal(size=COMMON)
        return profile(random, base), [what @ one + 0.3 * random.normal(size=FEATURES) for one in networks]

    seen = []
    for number in range(cases):
        image, features = case()
        fold = number % folds
        seen.append(Seen(fold, image, "layer" if looks else None, features[fold] if looks else None))
    known = learn_familiarity(seen, "3d_fullres", "none")
    assert known is not None
    judged = []
    for _ in range(NEW):
        image, features = case()
        judged.append(judge_image(known, image, dict(enumerate(features)) if looks else {}))
    return float(np.mean([one.is_unusual for one in judged])), judged[0].false_alarms


def main() -> None:
    for cases, folds, looks in KINDS:
        found = [rate(seed, cases, folds, looks) for seed in range(SETS)]
        rates = np.array([one for one, _ in found])
        error, (most, nearly_all) = rates.std() / SETS**0.5, np.quantile(rates, (0.9, 0.95))
        where = f"{folds} fold(s)" if looks else "images alone"
        print(
            f"{cases} held-out cases, {where}: {100 * rates.mean():.1f} % (standard error {100 * error:.1f}) where "
            f"{100 * found[0][1]:.1f} % is stated; of sets of cases 90 % within {100 * most:.0f} %, 95 % within "
            f"{100 * nearly_all:.0f} %"
        )


if __name__ == "__main__":
    main()
