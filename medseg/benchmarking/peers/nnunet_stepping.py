"""C8, G1, nnU-Net's side: its trainer's train_step on one and the same batch."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch


def prepare(request):
    """``folder`` holds plans.json; a turn takes ``steps``."""
    scratch = tempfile.mkdtemp(dir=request["scratch"])
    os.environ |= dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), scratch)
    os.environ["nnUNet_compile"] = "t" if request["mode"] == "compile" else "f"
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module

    module.infer_dataset_class = lambda folder: None  # there is no data on disk
    folder, device = Path(request["folder"]), torch.device(request["device"])
    plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    plans["continue_training"] = False
    trainer = module.nnUNetTrainer(plans, "3d_fullres", 0, dataset, device)
    trainer.initialize()
    trainer.network.train()
    batch, patch = trainer.batch_size, trainer.configuration_manager.patch_size
    classes = trainer.label_manager.num_segmentation_heads
    data = torch.randn(batch, 1, *patch)
    target = [
        torch.randint(0, classes, (batch, 1, *np.ceil(np.array(patch) * scale).astype(int)))
        for scale in trainer._get_deep_supervision_scales()
    ]

    def work():
        for _ in range(request["steps"]):
            trainer.train_step({"data": data, "target": target})
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return None, {}

    return work


def keep(result, folder):
    """Two programs' random weights can't be compared."""
