"""C6, DeepMind's surface-distance: Dice, HD95 and NSD of every structure."""

import numpy as np
import surface_distance


def prepare(request):
    """``truth`` and ``prediction`` are files of labels (Z, Y, X)."""
    truth, prediction, spacing = np.load(request["truth"]), np.load(request["prediction"]), request["spacing"]

    def one(index):
        masks = truth == index, prediction == index
        surfaces = surface_distance.compute_surface_distances(*masks, spacing)
        return (
            surface_distance.compute_dice_coefficient(*masks),
            surface_distance.compute_robust_hausdorff(surfaces, 95),
            surface_distance.compute_surface_dice_at_tolerance(surfaces, 1.0),
        )

    return lambda: (np.array([one(index) for index in range(1, request["structures"] + 1)]), {})


def keep(result, folder):
    """Dice, HD95 and NSD of each structure."""
    np.save(folder / "scores.npy", result)
