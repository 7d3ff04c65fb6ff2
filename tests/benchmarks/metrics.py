"""Time of scoring 14 structures on 256x256x200 against surface-distance and MONAI, and the largest difference.

Run from the project's folder, one thread for all: ``OMP_NUM_THREADS=1 python tests/benchmarks/metrics.py [monai]``.
The structures are blobs of organ size, the prediction is the truth with rough edges, a shift, and stray voxels.
"""

import sys
import time
import warnings

import numpy as np
from scipy import ndimage

from medseg.cases.labels import Label, LabelTable
from medseg.evaluation.metrics import score_case

SHAPE, SPACING, STRUCTURES = (200, 256, 256), (1.5, 0.8, 0.8), 14
TABLE = LabelTable(labels=tuple(Label(name=f"structure {i}", value=i) for i in range(1, STRUCTURES + 1)))


def make_labels():
    """Truth and prediction with 14 ellipsoids of 15 to 90 voxels across."""
    random = np.random.default_rng(0)
    truth = np.zeros(SHAPE, np.uint8)
    grid = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    for index in range(1, STRUCTURES + 1):
        centre = [random.integers(extent // 4, 3 * extent // 4) for extent in SHAPE]
        radii = random.uniform(8, 45, 3)
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) < 1
        truth[inside] = index
    noise = ndimage.gaussian_filter(random.standard_normal(SHAPE).astype(np.float32), 2)
    prediction = np.where(noise > 0.05, np.roll(truth, 2, axis=1), truth)
    for index in range(1, STRUCTURES + 1):
        places = tuple(random.integers(0, extent, 5) for extent in SHAPE)
        prediction[places] = index
    return prediction.astype(np.uint8), truth


def by_surface_distance(prediction, truth):
    import surface_distance

    rows = []
    for index in range(1, STRUCTURES + 1):
        masks = truth == index, prediction == index
        surfaces = surface_distance.compute_surface_distances(*masks, SPACING)
        rows.append(
            (
                surface_distance.compute_dice_coefficient(*masks),
                surface_distance.compute_robust_hausdorff(surfaces, 95),
                surface_distance.compute_surface_dice_at_tolerance(surfaces, 1.0),
            )
        )
    return np.array(rows)


def by_monai(prediction, truth):
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    onehot = [torch.nn.functional.one_hot(torch.from_numpy(x).long(), STRUCTURES + 1) for x in (prediction, truth)]
    onehot = [x.permute(3, 0, 1, 2)[None].float() for x in onehot]
    dice = compute_dice(*onehot, include_background=False)
    hd95 = compute_hausdorff_distance(*onehot, percentile=95, spacing=list(SPACING))
    nsd = compute_surface_dice(*onehot, [1.0] * STRUCTURES, spacing=list(SPACING), use_subvoxels=True)
    return torch.stack([dice[0], hd95[0], nsd[0]], dim=1).numpy()


def timed(work, repeats):
    seconds, result = [], None
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return min(seconds), result


def main():
    warnings.simplefilter("ignore")
    prediction, truth = make_labels()
    ours, case = timed(lambda: score_case(prediction, truth, SPACING, TABLE), 3)
    numbers = np.array([(s.dice, s.hd95_mm, s.nsd) for s in case.structures])
    print(f"medseg (all nine metrics)                 {ours:7.2f} CPU seconds")
    rivals = {"surface-distance (Dice, HD95, NSD)": by_surface_distance}
    if "monai" in sys.argv:
        rivals["MONAI (Dice, HD95, NSD)"] = by_monai
    for name, work in rivals.items():
        seconds, theirs = timed(lambda work=work: work(prediction, truth), 1)
        largest = np.abs(numbers - theirs).max(axis=0)
        print(f"{name:<42}{seconds:7.2f} CPU seconds, {seconds / ours:.0f} times ours; largest differences {largest}")


if __name__ == "__main__":
    main()
