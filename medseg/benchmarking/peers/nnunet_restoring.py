"""C5, nnU-Net's side: its export from logits to labels."""

import json
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


def prepare(request):
    """``folder`` holds plans.json; ``logits`` is a file of (K, Z, Y, X) float16; ``shape`` is the file's."""
    folder = Path(request["folder"])
    plans = PlansManager(json.loads((folder / "plans.json").read_text()))
    labels = plans.get_label_manager(json.loads((folder / "dataset.json").read_text()))
    configuration = plans.get_configuration("3d_fullres")
    logits = torch.from_numpy(np.load(request["logits"]))
    shape = request["shape"]
    properties = {
        "spacing": request["file_spacing"],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, n] for n in shape],
    }

    def work():
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, plans, configuration, labels, properties, num_threads_torch=torch.get_num_threads()
        )
        return found, {}

    return work


def keep(result, folder):
    """The labels."""
    np.save(folder / "labels_0.npy", result)
