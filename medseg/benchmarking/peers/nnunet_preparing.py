"""C1, nnU-Net's side: its DefaultPreprocessor, case by case in this process."""

import json
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def prepare(request):
    """``folder`` holds plans.json; ``cases`` are (image, labels)."""
    folder = Path(request["folder"])
    plans = PlansManager(json.loads((folder / "plans.json").read_text()))
    dataset = json.loads((folder / "dataset.json").read_text())
    configuration = plans.get_configuration("3d_fullres")
    worker = DefaultPreprocessor(verbose=False)

    def work():
        return [worker.run_case([i], l, plans, configuration, dataset)[:2] for i, l in request["cases"]], {}

    return work


def keep(result, folder):
    """Images and labels of every case."""
    for index, (image, labels) in enumerate(result):
        np.save(folder / f"image_{index}.npy", image)
        np.save(folder / f"labels_{index}.npy", np.maximum(labels[0], 0).astype(np.uint8))
