"""Model folders as nnU-Net writes them, small enough to import and predict in a second."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden.nnunet_cases import Model, dataset_of, plans_of, weights_of

from medseg.images.formats import write_image
from medseg.images.volume import Volume

Z_FIRST = [2, 1, 0, 3]


def write_nnunet_model(folder: Path, model: Model, plans: Any = None, dataset: Any = None, **content: Any) -> Path:
    """plans.json, dataset.json and a checkpoint for every fold; ``content`` replaces parts of the checkpoints."""
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans or plans_of(model)))
    (folder / "dataset.json").write_text(json.dumps(dataset or dataset_of(model)))
    for fold in model.folds:
        save_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth", model, fold, **content)
    return folder


def save_checkpoint(path: Path, model: Model, fold: int = 0, **content: Any) -> None:
    """A checkpoint with every layer under each of nnU-Net's names, and numpy's numbers in its log."""
    path.parent.mkdir(parents=True)
    weights = {name: torch.from_numpy(value) for name, value in weights_of(model, fold).items()}
    doubles = {
        name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1."): value
        for name, value in weights.items()
    }
    doubles |= {f"decoder.{name}": value for name, value in weights.items() if name.startswith("encoder.")}
    usual = {
        "network_weights": weights | doubles,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(1000)}}},
        "logging": {"train_losses": [np.float32(0.5)], "mean_fg_dice": [np.float64(0.8)], "lrs": [0.01]},
        "_best_ema": np.float64(0.8),
        "current_epoch": 1000,
        "init_args": {"configuration": model.configuration, "fold": fold, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": model.mirror_axes,
    }
    torch.save(usual | content, path)


def write_nifti(path: Path, array: np.ndarray, affine_xyz: np.ndarray) -> None:
    """An image (Z, Y, X) whose affine takes (x, y, z)."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    write_image(path, array, Volume(array, affine_xyz[:, Z_FIRST]))
