"""C6, MONAI: Dice, HD95 and NSD (with sub-voxel surfaces) of every structure."""

import warnings

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice


def prepare(request):
    """``truth`` and ``prediction`` are files of labels (Z, Y, X)."""
    warnings.simplefilter("ignore")
    labels = [torch.from_numpy(np.load(request[name])).long() for name in ("prediction", "truth")]
    structures, spacing = request["structures"], list(request["spacing"])

    def work():
        hot = [torch.nn.functional.one_hot(x, structures + 1).permute(3, 0, 1, 2)[None].float() for x in labels]
        dice = compute_dice(*hot, include_background=False)
        hd95 = compute_hausdorff_distance(*hot, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(*hot, [1.0] * structures, spacing=spacing, use_subvoxels=True)
        return torch.stack([dice[0], hd95[0], nsd[0]], dim=1).numpy(), {}

    return work


def keep(result, folder):
    """Dice, HD95 and NSD of each structure."""
    np.save(folder / "scores.npy", result)
