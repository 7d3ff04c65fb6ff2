"""C7, nnU-Net's side: its data loader over blosc2 files with batchgeneratorsv2's augmentation.

Worker processes live for one turn, and the clock starts when each has given a batch, as on medseg's side.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter


def prepare(request):
    """``folder`` holds plans.json; ``cases`` are (image, labels); a turn takes ``batches`` with ``workers``."""
    scratch = tempfile.mkdtemp(dir=request["scratch"])
    os.environ |= dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), scratch)
    os.environ["nnUNet_compile"] = "f"
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = Path(request["folder"])
    plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
    plans["continue_training"] = False
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
    place = Path(scratch) / "cases"
    place.mkdir()
    worker = DefaultPreprocessor(verbose=False)
    for number, (image, labels) in enumerate(request["cases"]):
        out = str(place / f"case_{number}")
        worker.run_case_save(out, [image], labels, trainer.plans_manager, trainer.configuration_manager, dataset)
    rotation, flat, initial, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    patch = trainer.configuration_manager.patch_size
    scales = trainer._get_deep_supervision_scales()
    labels = trainer.label_manager
    transforms = trainer.get_training_transforms(
        patch, rotation, scales, mirror, flat, trainer.configuration_manager.use_mask_for_norm,
        foreground_labels=labels.foreground_labels,
    )  # fmt: skip
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(place)), trainer.configuration_manager.batch_size, initial, patch, labels,
        oversample_foreground_percent=trainer.oversample_foreground_percent, transforms=transforms,
    )  # fmt: skip
    workers = request["workers"]

    def work():
        if workers:
            batches = NonDetMultiThreadedAugmenter(loader, None, workers, num_cached=4 * workers, seeds=None)
        else:
            batches = SingleThreadedAugmenter(loader, None)
        for _ in range(max(workers, 1)):
            next(batches)
        started = time.perf_counter()
        for _ in range(request["batches"]):
            next(batches)
        seconds = time.perf_counter() - started
        if workers:
            batches._finish()
        return None, {"seconds": seconds}

    work()
    return work


def keep(result, folder):
    """Random patches of two programs can't be compared voxel by voxel."""
